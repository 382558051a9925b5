"""TinyGSM's programs as worked text: one program by `convert_program`, a data set by `training/convert_tinygsm.py`."""

from training.data.tinygsm.conversion import (
    GATES,
    STYLES,
    ConversionSettings,
    Converter,
    Refusal,
    Row,
    convert_program,
)

__all__ = ["GATES", "STYLES", "ConversionSettings", "Converter", "Refusal", "Row", "convert_program"]
