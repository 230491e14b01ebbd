"""The vocabulary: things, styles, colours, and how captions are made of them.

A caption names one or two things, sometimes their colour and the place, and the style: `a red apple on a wooden table, 3d model`.
"""

import re

# The embedded model's things: what a picture of 128 pixels can show.
THINGS = [name.strip() for name in """
airplane; alarm clock; alien; automobile; avocado; baby chick; balloon; banana; basketball; bear; bed; beer mug; bell;
bicycle; bird; birthday cake; blue heart; blueberries; books; bread; broccoli; bus; butterfly; cactus; camera; candle;
carrot; castle; cat; cat face; chair; cheese wedge; cherries; chicken; christmas tree; cloud; cookie; cooking; cow face;
crab; crescent moon; croissant; crown; cupcake; deciduous tree; dog; dog face; dolphin; doughnut; dragon; dress; drum;
duck; ear of corn; egg; eggplant; elephant; evergreen tree; fire; fire engine; flamingo; flying saucer; fox; french
fries; frog; gem stone; ghost; giraffe; glasses; grapes; green apple; grinning face; guitar; hamburger; hammer;
helicopter; honeybee; horse; hot beverage; hot dog; house; ice cream; jack-o-lantern; key; koala; lady beetle; laptop;
lemon; light bulb; lion; locomotive; lollipop; maple leaf; mobile phone; monkey face; motorcycle; mouse face; mushroom;
octopus; owl; palm tree; panda; parrot; peach; pear; pencil; penguin; pig face; pineapple; pizza; police car; potted
plant; pretzel; rabbit; rabbit face; rainbow; red apple; red heart; robot; rocket; rose; running shoe; sailboat;
scissors; shark; skull; smiling face with sunglasses; snail; snake; snow-capped mountain; snowflake; snowman; soccer
ball; soft ice cream; star; strawberry; sun; sunflower; t-shirt; tangerine; teapot; teddy bear; telescope; television;
tent; tiger face; tomato; top hat; tractor; trophy; tropical fish; tulip; turtle; umbrella; unicorn; violin; volcano;
watermelon; whale; wine glass; wrapped gift; zebra
""".replace("\n", " ").split(";")]

# Of these, the ones that it draws best: drawn as 3d models, they get the last part of the training.
FEW = [name.strip() for name in """
red apple; banana; dog; cat; rabbit; elephant; penguin; owl; tropical fish; butterfly; automobile; bus; airplane;
rocket; sailboat; bicycle; house; castle; sunflower; rose; tulip; deciduous tree; palm tree; cactus; mushroom; pizza;
hamburger; doughnut; birthday cake; ice cream; hot beverage; strawberry; lemon; watermelon; carrot; soccer ball;
basketball; teddy bear; crown; guitar; robot; ghost; jack-o-lantern; snowman; christmas tree; wrapped gift; balloon; red
heart
""".replace("\n", " ").split(";")]

# Styles, and what else they are called; the first name is the usual one.
STYLES = {
    "3d model": ["3d model", "3d render", "3d"],
    "digital art": ["digital art", "digital painting", "illustration"],
    "flat vector art": ["flat vector art", "flat design", "vector"],
    "cartoon": ["cartoon", "cartoon drawing", "anime"],
    "clip art": ["clip art", "clipart"],
    "line art": ["line art", "line drawing", "black and white line art", "sketch"],
    "pixel art": ["pixel art", "pixelated", "8 bit pixel art"],
    "low poly": ["low poly", "low-poly", "polygon art"],
    "neon punk": ["neon punk", "neon", "neon glow"],
    "comic book": ["comic book", "comic", "comic book art"],
}

# Colours of backgrounds.
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (250, 215, 50),
    "green": (60, 170, 70),
    "blue": (50, 110, 225),
    "purple": (140, 70, 190),
    "pink": (250, 150, 190),
    "brown": (130, 85, 50),
    "black": (20, 20, 22),
    "grey": (150, 150, 152),
    "teal": (40, 160, 160),
    "beige": (235, 220, 190),
    "light blue": (170, 210, 245),
    "dark blue": (25, 40, 95),
    "light grey": (215, 215, 218),
}

# Hues that things are coloured with, in OpenCV's half degrees.
HUES = {"red": 0, "orange": 14, "yellow": 27, "green": 60, "blue": 108, "purple": 135, "pink": 162}

# What prompts are padded with, and what means nothing here.
PRAISE = [
    "high quality", "detailed", "highly detailed", "beautiful", "sharp focus", "8k", "masterpiece", "best quality",
    "centered", "trending on artstation", "vivid colors",
]

# Other names of things, put into captions when they are tokenized.
SYNONYMS = {
    "dog": ["puppy", "doggy", "hound"],
    "dog face": ["dog", "puppy"],
    "cat": ["kitten", "kitty"],
    "cat face": ["cat", "kitten"],
    "automobile": ["car", "red car", "auto"],
    "bicycle": ["bike"],
    "airplane": ["plane", "jet", "aeroplane"],
    "sailboat": ["boat", "sailing boat", "yacht"],
    "hamburger": ["burger", "cheeseburger"],
    "birthday cake": ["cake"],
    "rabbit": ["bunny"],
    "horse": ["pony"],
    "wrapped gift": ["gift", "present"],
    "red heart": ["heart"],
    "cherries": ["cherry"],
    "grapes": ["bunch of grapes"],
    "cheese wedge": ["cheese"],
    "running shoe": ["shoe", "sneaker", "trainer"],
    "mobile phone": ["phone", "smartphone", "cell phone"],
    "fire": ["flame", "flames"],
    "crescent moon": ["moon"],
    "motorcycle": ["motorbike"],
    "cooking": ["fried egg"],
    "wine glass": ["wine", "glass of wine"],
    "beer mug": ["beer", "glass of beer"],
    "evergreen tree": ["pine tree", "fir tree", "conifer"],
    "deciduous tree": ["tree", "oak tree", "green tree"],
    "snow-capped mountain": ["mountain"],
    "locomotive": ["train", "steam train"],
    "fire engine": ["fire truck"],
    "t-shirt": ["shirt", "tshirt"],
    "gem stone": ["diamond", "gem", "jewel"],
    "jack-o-lantern": ["pumpkin", "halloween pumpkin"],
    "light bulb": ["bulb", "lamp"],
    "alarm clock": ["clock"],
    "television": ["tv"],
    "hot beverage": ["coffee", "cup of coffee", "cup of tea"],
    "soccer ball": ["football", "ball"],
    "frog": ["toad"],
    "soft ice cream": ["ice cream", "ice cream cone"],
    "doughnut": ["donut"],
    "french fries": ["fries", "chips"],
    "house": ["home", "cottage"],
    "castle": ["fortress", "palace"],
    "sun": ["sunshine"],
    "cloud": ["white cloud"],
    "red apple": ["apple"],
    "green apple": ["apple"],
    "tangerine": ["orange", "orange fruit", "mandarin"],
    "chicken": ["hen"],
    "mouse face": ["mouse"],
    "monkey face": ["monkey", "ape"],
    "tiger face": ["tiger"],
    "cow face": ["cow"],
    "pig face": ["pig"],
    "rabbit face": ["rabbit", "bunny"],
    "teddy bear": ["bear toy", "plush bear"],
    "skull": ["human skull"],
    "crown": ["golden crown"],
    "police car": ["cop car"],
    "honeybee": ["bee"],
    "bird": ["little bird"],
    "blue heart": ["heart"],
    "rose": ["red rose", "flower"],
    "sunflower": ["yellow flower", "flower"],
    "tulip": ["pink flower"],
    "snake": ["serpent"],
    "robot": ["android", "bot"],
    "alien": ["extraterrestrial"],
    "ghost": ["spook"],
    "unicorn": ["unicorn head"],
}

# Places of a scene by the words that name them, for the text encoder's lessons.
PLACES = [
    "white background", "grass|field|meadow|park", "beach|sand by", "snow|winter", "night|dark", "table|desk", "room|indoors|floor", "sunset|dusk",
    "under water|ocean|deep sea", "on the water|lake|at sea", "mountains", "city|street|buildings", "desert", "forest|woods|among trees", "gradient",
]

_UNCOUNTED = ("bread", "fire", "grass", "corn", "broccoli")
_NAMES = re.compile(r"\b(" + "|".join(sorted(map(re.escape, SYNONYMS), key=len, reverse=True)) + r")\b")


def with_article(name):
    if re.match(r"(a|an|the|some|two|three|\d)\b", name):
        return name
    last = name.split()[-1]
    if last in _UNCOUNTED or last.endswith("s") and not last.endswith(("ss", "us", "is")):
        return name
    return ("an " if name[0] in "aeiou" else "a ") + name


def named(random, thing, colour=None):
    """A thing as a caption names it."""
    name = thing["name"]
    if colour:
        name = colour + " " + re.sub(r"^(red|orange|yellow|green|blue|purple|pink|brown|black|white|grey) ", "", name)
    elif name.endswith(" face") and thing["group"] == 3 and random.random() < 0.6:
        name = name.removesuffix(" face")
    text = with_article(name) if random.random() < 0.85 else name
    return text + (", " + random.choice(thing["words"]) if thing["words"] and random.random() < 0.12 else "")


def caption(random, things, place, style):
    text = random.choice([" and ", " and ", " next to ", " beside "]).join(things)
    if place:
        text += (" " if random.random() < 0.75 else ", ") + place
    names = STYLES[style]
    name = names[0] if random.random() < 0.6 else random.choice(names)
    form = random.random()
    text = f"{text}, {name}" if form < 0.5 else f"{name} of {text}" if form < 0.72 else f"{name}, {text}" if form < 0.86 else text
    return text + (", " + ", ".join(random.sample(PRAISE, random.randint(1, 3))) if random.random() < 0.12 else "")


def with_synonyms(text, random, share=0.3):
    """The caption with some of its things called otherwise."""
    swap = lambda match: random.choice(SYNONYMS[match.group(1)]) if random.random() < share else match.group(1)
    text = _NAMES.sub(swap, text)
    return re.sub(r"\ba ([aeiou])", r"an \1", re.sub(r"\ban ([bcdfghjklmnpqrstvwxyz])", r"a \1", text))
