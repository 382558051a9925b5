"""The words, units and definitions that synthetic instructions are about."""

WORDS = (
    "amber anchor apron arrow autumn bamboo banana barrel basket beacon bicycle blanket blossom bottle branch bridge "
    "bucket button cabin camel candle canyon carpet castle cellar cherry circle clover cotton cradle crystal curtain "
    "daisy desert dragon eagle ember engine fabric falcon feather ferry flower forest fossil garden ginger glacier "
    "guitar hammer harbor hazel helmet honey island jacket jungle kettle ladder lagoon lantern lemon letter library "
    "lizard magnet mango maple marble meadow mirror monkey mountain needle nutmeg ocean olive orchard oyster paddle "
    "palace parrot pebble pencil pepper pigeon pillow planet pocket puzzle rabbit raisin ribbon river rocket saddle "
    "salmon shadow silver spider spoon stable stream sugar summit tailor temple thunder ticket tiger tunnel turtle "
    "valley velvet violet wagon walnut whistle willow window winter yellow zebra"
).split()
MONTHS = "January February March April May June July August September October November December".split()
# (unit, smaller unit, how many of it)
UNITS = (
    ("hours", "minutes", 60),
    ("minutes", "seconds", 60),
    ("days", "hours", 24),
    ("metres", "centimetres", 100),
    ("kilometres", "metres", 1000),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("centimetres", "millimetres", 10),
    ("years", "months", 12),
    ("feet", "inches", 12),
    ("dollars", "cents", 100),
    ("pounds", "ounces", 16),
)
DEFINITIONS = {
    "anchor": "a heavy hook that holds a ship in place",
    "archipelago": "a group of islands",
    "atlas": "a book of maps",
    "barometer": "an instrument that measures the pressure of the air",
    "blacksmith": "a person who makes things out of iron",
    "canyon": "a deep valley with steep sides",
    "compass": "an instrument whose needle points north",
    "constellation": "a group of stars that seem to form a picture",
    "delta": "the land where a river splits before it meets the sea",
    "drought": "a long time without rain",
    "eclipse": "the hiding of the sun or the moon by a shadow",
    "fossil": "the trace of a living thing of long ago, kept in stone",
    "glacier": "a slow river of ice",
    "glossary": "a list of words with what they mean",
    "harvest": "the gathering of ripe crops",
    "hexagon": "a shape with six sides",
    "island": "land with water all around it",
    "lighthouse": "a tower whose light guides ships",
    "mammal": "an animal that feeds its young with milk",
    "mosaic": "a picture made of many small pieces",
    "nectar": "the sweet liquid that bees gather from flowers",
    "oasis": "a place in a desert where there is water",
    "orbit": "the path of one body around another in space",
    "orchard": "a field of fruit trees",
    "pendulum": "a weight that swings from a fixed point",
    "peninsula": "land with water on nearly all sides",
    "prime number": "a whole number above 1 that only 1 and itself divide",
    "quarry": "a place where stone is dug",
    "recipe": "a list of what to use and what to do when cooking",
    "reservoir": "a lake where water is stored",
    "satellite": "a body that circles a planet",
    "thermometer": "an instrument that measures how warm something is",
    "tide": "the rise and fall of the sea each day",
    "triangle": "a shape with three sides",
    "volcano": "a mountain from which melted rock can come",
    "windmill": "a mill that the wind drives",
}
