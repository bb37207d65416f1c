"""Prompts as people write them for Stable Diffusion, made from our own tables: offline, the same on every machine.

A stand-in for the public collections that `promptlab.prompts.collections` fetches: nothing here is copied from anybody's prompts. As in
the pocket community, fashion decides more than fit, and some words only praise. The spelling is that of the web's
captions, which the text encoder has read: "color", "gray".
"""

import random
from functools import cache

from promptlab.prompts.records import CAPTIONS, deal, distinct, normalised, part_of, pick, record, share
from promptlab.prompts.sources import in_domain, separate

# Kind of thing: nouns; adjectives that suit them; where they are. "|" parts entries.
TABLES = {
    "person": (
        """knight|fisherman|dancer|astronaut|blacksmith|gardener|violinist|detective|sailor|monk|beekeeper|shepherd|baker|cartographer|lighthouse keeper|
        clockmaker|street musician|mountaineer|librarian|potter|glassblower|stargazer|ferryman|tailor""",
        "old|young|tired|cheerful|masked|freckled|elegant|thoughtful|wandering|rain-soaked",
        "in a crowded market|under a paper lantern|beside a frozen lake|on a balcony|in an attic full of maps|on a railway platform|at the end of a pier",
    ),
    "animal": (
        """fox|heron|badger|hare|otter|raven|stag|lynx|tortoise|hedgehog|whale|jellyfish|chameleon|barn owl|wolf|kingfisher|bison|salamander|moth|
        sparrow|polar bear|seahorse|goat|panther""",
        "small|curious|sleeping|majestic|white|black|snow-covered|hungry|shy|watchful",
        "in tall grass|on a mossy rock|in the morning mist|among birch trees|in a city alley|under a full moon|by a stream",
    ),
    "creature": (
        """dragon|phoenix|griffin|golem|mermaid|forest spirit|sea serpent|unicorn|minotaur|kraken|stone giant|goblin|fairy|sphinx|hydra|centaur|yeti|ghost|
        werewolf|gargoyle|clockwork beetle|cloud whale|moss troll|fire salamander""",
        "ancient|tiny|colossal|gentle|two-headed|crystal|sleeping|forgotten|golden|luminous",
        "above a burning city|in a flooded temple|on a pile of coins|in a mountain hall|at the bottom of the sea|guarding a gate|in a child's bedroom",
    ),
    "landscape": (
        """canyon|waterfall|glacier|meadow|swamp|volcano|desert oasis|fjord|bamboo grove|salt flat|coral reef|ice cave|sea cliff|lagoon|birch forest|
        mountain pass|tundra valley|lavender field|river delta|moor|floating island|crater lake|terraced hill|sand dune""",
        "vast|quiet|foggy|windswept|hidden|alien|frozen|overgrown|sunlit|untouched",
        "with a lone traveler|with distant ruins|seen from the air|after a storm|in early spring|with a winding path|below two moons",
    ),
    "building": (
        """lighthouse|windmill|castle|cathedral|observatory|treehouse|teahouse|railway station|library|monastery|greenhouse|stone bridge|pagoda|harbor|bakery|
        market hall|water tower|cottage|skyscraper|amphitheater|clock tower|bathhouse|space port|theater""",
        "abandoned|crooked|tiny|grand|ivy-covered|half-ruined|wooden|brutalist|snowed-in|candlelit",
        "on a cliff|in the clouds|in a rainy street|by a canal|deep in the jungle|on the back of a turtle|at the edge of a desert",
    ),
    "vehicle": (
        """steam train|sailing ship|airship|tram|submarine|motorcycle|hot air balloon|spaceship|rowing boat|gondola|tractor|vintage car|biplane|lunar rover|
        bicycle|fire engine|cargo ship|racing car|camper van|helicopter|snowmobile|paddle steamer|cable car|hovercraft""",
        "rusty|red|green|silver|overloaded|futuristic|toy|battered|polished|abandoned",
        "crossing a viaduct|in a thunderstorm|on an empty road|above the clouds|in a scrapyard|near a volcano|on a winter morning",
    ),
    "food": (
        """bowl of ramen|slice of cake|loaf of bread|cup of coffee|plate of oysters|fruit tart|pot of honey|wheel of cheese|basket of figs|glass of lemonade|
        stack of pancakes|ginger biscuit|pomegranate|roast chicken|box of chocolates|scoop of sorbet|pot of fish stew|croissant|jar of pickles|apple pie|
        bunch of grapes|rice dumpling|birthday cake|jar of berry jam""",
        "steaming|homemade|half-eaten|festive|rustic|oversized|burnt|freshly baked|colorful|frosted",
        "on a wooden table|on a checkered cloth|in a busy kitchen|on a windowsill|in a picnic basket|on a marble counter|at a night market",
    ),
    "plant": (
        """sunflower|bonsai|cactus|oak tree|orchid|red mushroom|water lily|dandelion|fern|pine tree|poppy|thistle|cherry tree|maple tree|pumpkin|willow|tulip|
        olive tree|palm tree|wild rose|venus flytrap|ivy arch|lotus|baobab""",
        "withered|blooming|giant|glowing|dew-covered|twisted|lonely|potted|purple|young",
        "in a cracked pot|on a hilltop|in an old courtyard|growing through a car|in a glass dome|beside a grave|in a drained pool",
    ),
    "object": (
        """pocket watch|violin|brass lantern|music box|typewriter|compass|chess set|telescope|carnival mask|chandelier|umbrella|globe|hourglass|sword|crown|
        teapot|hand mirror|suitcase|film camera|robot|snow globe|rocking horse|key ring|radio""",
        "antique|broken|golden|blue|ornate|miniature|dusty|wooden|transparent|cursed",
        "on a velvet cushion|in a shop window|half buried in sand|on a writing desk|in the rain|among dried flowers|on a throne",
    ),
}  # fmt: skip
COLOURS = ("red", "green", "blue", "purple", "white", "black", "golden", "silver")  # adjectives that a record calls its colour

# What is added, the most fashionable first: the word in place n is used 1/n as often as the first (Zipf's law).
MEDIA = """digital painting|oil painting|photograph|3d render|watercolor painting|pencil drawing|ink illustration|matte painting|charcoal sketch|woodcut print|
    pastel drawing|paper cutout|clay sculpture|stained glass|pixel art|embroidery"""
STYLES = """art nouveau|cyberpunk|baroque|impressionism|steampunk|surrealism|gothic|minimalism|art deco|romanticism|vaporwave|rococo|expressionism|
    isometric|solarpunk|ukiyo-e"""
LIGHTS = """cinematic lighting|volumetric light|golden hour|soft light|dramatic lighting|rim light|neon glow|moonlight|backlit|candlelight|studio lighting|
    overcast sky|god rays|low key|long shadows|bioluminescence"""
MOODS = """vibrant colors|moody|dreamlike|muted colors|warm tones|cold tones|melancholic|serene|monochrome|pastel palette|teal and orange|whimsical|
    ominous|high contrast|earthy colors|nostalgic"""
VIEWS = """close up|wide angle|depth of field|bokeh|symmetrical composition|low angle|bird's eye view|macro lens|35mm film|telephoto|rule of thirds|
    centered|fisheye|long exposure|panorama|tilt shift"""
DETAILS = """highly detailed|intricate|sharp focus|smooth|elegant|realistic texture|fine lines|visible brush strokes|film grain|crisp edges|layered|
    weathered surfaces|ornamental|reflections|subsurface scattering|dust particles"""
PLACEBO = "8k|masterpiece|award winning|trending on artstation|concept art|best quality|4k|wallpaper|beautiful|digital art"
# What a sizeable minority knows to suit a kind of thing, medium and light; the rest follows fashion.
TIPS = {
    "person": ("oil painting", "candlelight"), "animal": ("photograph", "soft light"), "creature": ("matte painting", "volumetric light"),
    "landscape": ("watercolor painting", "golden hour"), "building": ("ink illustration", "overcast sky"), "vehicle": ("3d render", "rim light"),
    "food": ("photograph", "studio lighting"), "plant": ("watercolor painting", "backlit"), "object": ("pencil drawing", "low key"),
}  # fmt: skip
TIP = 0.2  # how often a writer follows it

# Of each kind's nouns these shares belong to one split alone, the rest is common; and so do shares of 100 of its (noun, adjective)s.
ALONE = {"test": 0.12, "validation": 0.05, "calibration": 0.05, "ppo": 0.12}
COMMON = {"sft": 72, "ppo": 12, "validation": 4, "test": 12}
# Engineered prompts of each split, then prompts of each kind that SFT never sees. 64 x 4 in domain and as many outside: the paper tests on 256 each.
COUNTS = {"sft": (3000, 0), "ppo": (400, 100), "validation": (20, 20), "test": (64, 64)}
PLAIN = 64  # prompts to calibrate with


def entries(text) -> list[str]:
    """The entries of one table, in order."""
    return [" ".join(e.split()) for e in text.split("|")]


NOUNS = {kind: entries(nouns) for kind, (nouns, _, _) in TABLES.items()}


def groups() -> dict[str, list[tuple[str, str]]]:
    """The (kind, noun)s that belong to one split alone, and those that are common: every kind is divided in the same proportions."""
    dealt = {kind: deal(nouns, ALONE, "sd group") for kind, nouns in NOUNS.items()}
    return {name: [(kind, noun) for kind, hand in dealt.items() for noun in hand[name]] for name in (*ALONE, "common")}


def contents(split) -> list[tuple[str, str, str | None]]:
    """The (kind, noun, adjective)s of a split among common nouns; without an adjective it is None."""
    claims = [(k, n, a) for k, n in groups()["common"] for a in (None, *entries(TABLES[k][1]))]
    return [c for c in claims if part_of(COMMON, "sd content", c[1], c[2]) == split]


def phrase(noun, adjective=None, scene=None) -> str:
    """The words for a thing: ``an old lighthouse on a cliff``."""
    words = " ".join(filter(None, (adjective, noun, scene)))
    # "a unicorn" and "a ukulele", but "an hourglass": the sound decides, not the letter.
    vowel = words.startswith("hour") or (words[0] in "aeiou" and not words.startswith(("uni", "uk")))
    return f"{'an' if vowel else 'a'} {words}"


def fashion(table) -> dict[str, float]:
    """How often each entry of a table is used, relative to the first."""
    return {e: 1 / n for n, e in enumerate(entries(table), 1)}


def modifiers(kind, rng) -> list[str]:
    """What a writer adds to a thing of this kind: a medium, mostly a style and a light, some of the rest, praise."""
    medium, light = TIPS[kind] if rng.random() < TIP else (pick(rng, fashion(MEDIA)), pick(rng, fashion(LIGHTS)))
    words = [medium, *([pick(rng, fashion(STYLES))] if rng.random() < 0.6 else []), *([light] if rng.random() < 0.8 else [])]
    for table in rng.sample((MOODS, VIEWS, DETAILS), rng.choice((1, 2, 2, 3))):
        words.append(pick(rng, fashion(table)))
    rng.shuffle(words)
    praise = {pick(rng, fashion(PLACEBO)) for _ in range(rng.choice((0, 1, 2, 3)))}
    return words + sorted(praise, key=entries(PLACEBO).index)


def engineer(content, kind, rng) -> str:
    """An engineered prompt: the content, then modifiers behind commas; every fifth writer opens with the medium: ``oil painting of a fox``."""
    words = modifiers(kind, rng)
    opening = next((w for w in words if w.endswith("painting")), None)
    if opening and rng.random() < 0.2:
        return ", ".join([f"{opening} of {content}", *(w for w in words if w != opening)])
    return ", ".join([content, *words])


def targets(split, count, rng) -> list[tuple[str, str, str | None]]:
    """`count` different engineered prompts of a split, each with its noun and colour."""
    pool, seen = contents(split), {}
    while len(seen) < count:
        kind, noun, adjective = rng.choice(pool)
        scene = rng.choice((None, *entries(TABLES[kind][2])))
        text = engineer(phrase(noun, adjective, scene), kind, rng)
        seen.setdefault(normalised(text), (text, noun, adjective if adjective in COLOURS else None))
    return list(seen.values())


def out_of_domain(split, count, rng) -> list[dict]:
    """Records of what SFT never sees: captions, bare labels, pairs, and nouns of this split alone; `count` of each kind."""
    mine, out = groups()[split], []
    labels = [label for label in imagenet_labels() if label_split(label) == split]
    for kind in ("caption", "label", "pair", "held out"):
        made = {}
        while len(made) < count:
            (one, noun), (other, second) = rng.sample(mine, 2)
            adjective, scene = rng.choice((None, *entries(TABLES[one][1]))), rng.choice(entries(TABLES[one][2]))
            bare = phrase(noun, adjective)
            if kind == "label":
                text, nouns, adjective = rng.choice(labels), [], None
            else:
                text = {
                    "caption": rng.choice(CAPTIONS[split]).format(bare),
                    "pair": f"{bare} and {phrase(second)}",
                    "held out": f"{bare} {scene}",
                }[kind]
                nouns = [noun, second] if kind == "pair" else [noun]
            made.setdefault(text, (nouns, adjective if adjective in COLOURS else None))
        out += [record(f"{split}-{kind}-{i}", split, "out_of_domain", kind, x, None, *about) for i, (x, about) in enumerate(made.items())]
    return out


def imagenet_labels() -> list[str]:
    """The thousand class names of ImageNet as torchvision lists them, less those that name two classes."""
    from torchvision.models import ResNet18_Weights  # its list of names, no weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    return [n for n in names if names.count(n) == 1]


def label_split(label) -> str:
    """Which split a label belongs to, whoever asks: SFT sees none."""
    return ("ppo", "ppo", "test", "validation")[share("label", normalised(label)) % 4]


@cache
def make_all(seed=0) -> dict[str, tuple[dict, ...]]:
    """Every split's records, with the fields of `data/prompts`: over 3,400 different engineered prompts, four sources each, and what SFT never sees."""
    out = {}
    for split, (inside, outside) in COUNTS.items():
        rng = random.Random(f"{seed} {split}")
        made = in_domain(split, targets(split, inside, rng), rng)
        out[split] = distinct(made) + distinct(out_of_domain(split, outside, rng)) if outside else made
    rng, mine = random.Random(f"{seed} calibration"), groups()["calibration"]
    claims = rng.sample([(n, a) for k, n in mine for a in (None, *entries(TABLES[k][1]))], PLAIN)
    out["calibration"] = [
        record(f"calibration-{i}", "calibration", "out_of_domain", "held out", phrase(n, a), None, [n], a if a in COLOURS else None)
        for i, (n, a) in enumerate(claims)
    ]
    return {split: tuple(records) for split, records in separate(out).items()}
