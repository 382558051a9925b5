"""How a global batch divides into micro-batches."""


def accumulation_steps(total_batch_items: int, per_device: int, num_processes: int) -> int:
    """Return the number of accumulation steps; raises `ValueError` when the batch sizes do not divide."""
    per_micro_step = per_device * num_processes
    if total_batch_items % per_micro_step:
        raise ValueError(
            f"total_batch_items ({total_batch_items}) must be a multiple of {per_micro_step} = {per_device} items x "
            f"{num_processes} processes; change per_device_train_batch_size or total_batch_items"
        )
    return total_batch_items // per_micro_step


def share_of_step(total_batch_tokens: int, sequence_length: int, per_device: int, num_processes: int) -> int:
    """Return the number of accumulation steps; raises `ValueError` when the batch sizes do not divide."""
    if per_device < 1 or sequence_length < 1:
        raise ValueError(
            f"per_device_train_batch_size ({per_device}) and n_positions ({sequence_length}) are at least 1"
        )
    per_micro_step = per_device * sequence_length * num_processes
    if total_batch_tokens < 1 or total_batch_tokens % per_micro_step:
        raise ValueError(
            f"total_batch_tokens ({total_batch_tokens:,}) must be a multiple of {per_micro_step:,} = {per_device} "
            f"sequences x {sequence_length:,} tokens x {num_processes} processes; change per_device_train_batch_size "
            "or total_batch_tokens"
        )
    return total_batch_tokens // per_micro_step
