"""Which subjects pocket is taught, and which it never sees.

A concept is named by its Unicode label. The held-out concepts are kept out of every style, so that
tests of unseen subjects mean what they say. Look-alikes (clocks, faces of one animal) are left out.
"""

_ANIMALS = """monkey; gorilla; orangutan; dog; poodle; wolf; fox; raccoon; cat; black cat; lion;
tiger; leopard; horse; unicorn; zebra; deer; bison; cow; water buffalo; pig; boar; ram; goat; camel;
llama; giraffe; elephant; mammoth; rhinoceros; hippopotamus; mouse; rat; hamster; rabbit; beaver;
hedgehog; bat; bear; polar bear; koala; panda; sloth; otter; skunk; kangaroo; badger; turkey;
chicken; rooster; hatching chick; baby chick; bird; penguin; eagle; duck; swan; owl; dodo; flamingo;
peacock; parrot; frog; crocodile; turtle; lizard; snake; dragon; sauropod; T-Rex; spouting whale;
dolphin; seal; fish; tropical fish; blowfish; shark; octopus; spiral shell; crab; lobster; shrimp;
squid; snail; butterfly; bug; ant; honeybee; beetle; lady beetle; cricket; scorpion; mosquito; fly;
worm; moose; donkey; jellyfish; goose"""

_TRAVEL = """locomotive; tram car; bus; ambulance; fire engine; police car; taxi; automobile;
sport utility vehicle; pickup truck; delivery truck; tractor; motor scooter; auto rickshaw; bicycle;
kick scooter; skateboard; roller skate; sailboat; canoe; speedboat; ship; helicopter; rocket;
flying saucer; parachute; anchor; ring buoy; tent; castle; snowman without snow; rainbow; cyclone;
fire; droplet; high voltage; crescent moon; ringed planet; star; sun with face; alarm clock; watch;
hourglass done; compass; fountain; ferris wheel; police car light"""

_FOOD = """grapes; melon; watermelon; tangerine; lemon; banana; pineapple; mango; red apple;
green apple; pear; peach; cherries; strawberry; blueberries; kiwi fruit; tomato; olive; coconut;
avocado; eggplant; potato; carrot; ear of corn; bell pepper; cucumber; broccoli; garlic; onion;
mushroom; bread; croissant; pretzel; bagel; pancakes; waffle; cheese wedge; meat on bone;
poultry leg; bacon; hamburger; french fries; pizza; hot dog; sandwich; taco; burrito; egg; popcorn;
sushi; fried shrimp; rice ball; soft ice cream; ice cream; doughnut; cookie; birthday cake;
shortcake; cupcake; pie; chocolate bar; candy; lollipop; honey pot; baby bottle; glass of milk;
hot beverage; teapot; wine glass; cocktail glass; tropical drink; beer mug; bubble tea"""

_OBJECTS = """jack-o-lantern; Christmas tree; balloon; party popper; wrapped gift; trophy;
sports medal; soccer ball; baseball; basketball; volleyball; american football; tennis; bowling;
boxing glove; bullseye; yo-yo; kite; water pistol; pool 8 ball; crystal ball; magic wand;
video game; game die; puzzle piece; teddy bear; nesting dolls; artist palette; yarn; glasses;
necktie; t-shirt; jeans; scarf; gloves; dress; handbag; backpack; running shoe; hiking boot;
high-heeled shoe; crown; top hat; graduation cap; lipstick; ring; gem stone; megaphone; bell;
microphone; headphone; radio; saxophone; trumpet; accordion; guitar; violin; drum; maracas;
telephone receiver; battery; laptop; floppy disk; movie camera; television; camera;
magnifying glass tilted left; light bulb; flashlight; red paper lantern; books; newspaper; coin;
money bag; package; postbox; pushpin; locked; key; hammer; axe; bomb; boomerang; wrench;
screwdriver; toolbox; magnet; ladder; test tube; microscope; telescope; syringe; pill; door; chair;
toilet; bathtub; broom; basket; bucket; soap; toothbrush; fire extinguisher; shopping cart; moai;
ghost; alien; alien monster; robot; skull; beating heart; sunflower; rose; tulip; hibiscus;
maple leaf; four leaf clover; cactus; palm tree; evergreen tree; potted plant;
umbrella with rain drops"""

HELD_OUT = frozenset(
    """fox; zebra; hippopotamus; koala; otter; eagle; parrot; lizard; dolphin; crab; honeybee;
beetle; rooster; llama; polar bear; ambulance; tractor; speedboat; flying saucer; tent; compass;
pineapple; strawberry; avocado; broccoli; pretzel; pizza; doughnut; lollipop; teapot; hammer; drum;
guitar; crown; bell; trophy; basketball; kite; robot; cactus; rose; laptop; magnet; toolbox;
top hat""".replace("\n", " ").split("; ")
)


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(";"))


CONCEPTS = _names(_ANIMALS) + _names(_TRAVEL) + _names(_FOOD) + _names(_OBJECTS)
TRAINED = tuple(name for name in CONCEPTS if name not in HELD_OUT)

_PLURALS = frozenset(
    """grapes; cherries; blueberries; pancakes; french fries; glasses; jeans; gloves; books;
maracas; nesting dolls; popcorn; sushi; bacon; soap; fire; yarn; bread; corn; garlic""".replace(
        "\n", " "
    ).split("; ")
)
_SPOKEN = {
    "snowman without snow": "snowman",
    "magnifying glass tilted left": "magnifying glass",
    "ear of corn": "corn",
    "hourglass done": "hourglass",
    "locked": "padlock",
    "tennis": "tennis ball",
    "bowling": "bowling ball",
    "umbrella with rain drops": "umbrella",
    "high voltage": "lightning bolt",
    "spouting whale": "whale",
    "lady beetle": "ladybug",
    "sauropod": "long-necked dinosaur",
    "fried shrimp": "fried prawn",
    "pool 8 ball": "eight ball",
    "red paper lantern": "paper lantern",
    "tram car": "tram",
    "bullseye": "dartboard",
}


def spoken(concept: str) -> str:
    """The concept's everyday name, without article: "snowman" for "snowman without snow"."""
    return _SPOKEN.get(concept, concept)


def noun_phrase(concept: str) -> str:
    """The name as it stands in a caption: "an apple", "grapes"."""
    name = spoken(concept)
    if name in _PLURALS:
        return name
    article = "an" if name[0].lower() in "aeiou" and not name.startswith("unicorn") else "a"
    return f"{article} {name}"


def _edition() -> tuple[str, ...]:
    """Subjects of the shipped weights: every trained animal, vehicle and food, and some objects."""
    objects = [name for name in _names(_OBJECTS) if name in TRAINED][:21]
    others = [name for name in CONCEPTS[: -len(_names(_OBJECTS))] if name in TRAINED]
    return (*others, *objects)


EDITION = _edition()
# What the weights were taught last, after the others had been learned.
ADDED = EDITION[EDITION.index("fried shrimp") :]
