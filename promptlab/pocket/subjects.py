"""The nouns of the pocket world: emoji glyphs, what they are called, and which kind of thing they are."""

from functools import cache
from pathlib import Path

from promptlab.runtime import PromptlabError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")

# Taste (taste.py) goes by kind; the English names follow Unicode's emoji-test.txt, shortened to what a person would type.
KINDS = {
    "sea": """🐋 whale, 🐬 dolphin, 🦭 seal, 🐟 fish, 🐡 pufferfish, 🦈 shark, 🐙 octopus, 🐚 shell, 🪼 jellyfish, 🦀 crab, 🦞 lobster,
        🐢 turtle, 🐧 penguin, 🦦 otter, ⚓ anchor, ⛵ sailboat, 🛶 canoe, 🛳️ ship""",
    "wild": """🐵 monkey, 🐶 dog, 🦊 fox, 🐱 cat, 🦁 lion, 🐯 tiger, 🐴 horse, 🦄 unicorn, 🦓 zebra, 🦌 deer, 🐮 cow, 🐷 pig, 🐑 sheep, 🦒 giraffe,
        🐘 elephant, 🦏 rhino, 🐰 rabbit, 🦔 hedgehog, 🦇 bat, 🐻 bear, 🐨 koala, 🐼 panda, 🦘 kangaroo, 🐓 rooster, 🦅 eagle, 🦆 duck,
        🦢 swan, 🦉 owl, 🦩 flamingo, 🦚 peacock, 🦜 parrot, 🐸 frog, 🐊 crocodile, 🐍 snake, 🐉 dragon, 🦕 dinosaur, 🐌 snail,
        🦋 butterfly, 🐝 bee, 🐞 ladybug, 🕷️ spider""",
    "plant": """💐 bouquet, 🌸 cherry blossom, 🪷 lotus, 🌹 rose, 🌺 hibiscus, 🌻 sunflower, 🌷 tulip, 🌱 seedling, 🪴 potted plant, 🌳 tree,
        🌴 palm tree, 🌵 cactus, ☘️ shamrock, 🍁 maple leaf, 🍄 mushroom, 🪹 nest, 🎄 christmas tree""",
    "food": """🍇 grapes, 🍉 watermelon, 🍋 lemon, 🍌 banana, 🍍 pineapple, 🍎 apple, 🍐 pear, 🍒 cherries, 🍓 strawberry, 🍅 tomato, 🥑 avocado,
        🍆 eggplant, 🥕 carrot, 🌽 corn, 🥦 broccoli, 🍞 bread, 🥐 croissant, 🥨 pretzel, 🥞 pancakes, 🧀 cheese, 🍔 hamburger,
        🍟 french fries, 🍕 pizza, 🌭 hot dog, 🌮 taco, 🍿 popcorn, 🍜 ramen, 🍩 donut, 🍪 cookie, 🎂 birthday cake, 🧁 cupcake,
        🍭 lollipop, 🫖 teapot, 🍷 wine glass, 🍺 beer""",
    "place": """🏔️ mountain, 🌋 volcano, 🏝️ island, 🏛️ temple, 🛖 hut, 🏠 house, 🏭 factory, 🏰 castle, 🗼 tower, 🗽 statue of liberty,
        ⛪ church, 🕌 mosque, ⛲ fountain, ⛺ tent, 🎡 ferris wheel, 🎪 circus tent""",
    "vehicle": """🚂 steam train, 🚌 bus, 🚑 ambulance, 🚒 fire truck, 🚓 police car, 🚕 taxi, 🚗 car, 🚜 tractor, 🏎️ race car, 🏍️ motorcycle,
        🚲 bicycle, 🛹 skateboard, 🛼 roller skate, ✈️ airplane, 🚁 helicopter, 🚀 rocket, 🛸 ufo, 🪂 parachute, 🛷 sled""",
    "thing": """⌛ hourglass, ⏰ alarm clock, ☂️ umbrella, ⛄ snowman, 🎃 pumpkin, 🎈 balloon, 🎁 gift, 🏆 trophy, ⚽ soccer ball,
        🏀 basketball, 🎲 dice, 🧸 teddy bear, 🕶️ sunglasses, 👗 dress, 🎒 backpack, 👟 sneaker, 👠 high heel, 👑 crown, 🎩 top hat,
        💍 ring, 💎 diamond, 🔔 bell, 🎧 headphones, 🎷 saxophone, 🎸 guitar, 🎺 trumpet, 🎻 violin, 🥁 drum, 💻 laptop, 📺 television,
        📷 camera, 🕯️ candle, 💡 light bulb, 📚 books, ✂️ scissors, 🔑 key, 💣 bomb, 🧲 magnet, 🪑 chair, 🛁 bathtub, 🪣 bucket""",
}  # fmt: skip

# Plurals and mass nouns take no article.
NO_ARTICLE = {"grapes", "cherries", "pancakes", "french fries", "books", "sunglasses", "scissors", "headphones", "dice", "corn", "broccoli", "bread", "cheese",
              "popcorn", "ramen", "beer"}  # fmt: skip


def _parse(kinds):
    for kind, text in kinds.items():
        for entry in text.split(","):
            glyph, noun = entry.strip().split(" ", 1)
            yield noun, kind, glyph


KIND = {noun: kind for noun, kind, _ in _parse(KINDS)}
GLYPH = {noun: glyph for noun, _, glyph in _parse(KINDS)}
SUBJECTS = tuple(sorted(KIND))


def with_article(noun: str, colour: str | None = None) -> str:
    """The noun phrase a person would type: ``a frog``, ``an apple``, ``a blue frog``, ``grapes``."""
    phrase = f"{colour} {noun}" if colour else noun
    if noun in NO_ARTICLE:
        return phrase
    # "a unicorn", "a ufo", but "an umbrella" and "an hourglass": the vowel sound decides, not the letter.
    vowel = phrase.startswith("hour") or (phrase[0] in "aeiou" and not phrase.startswith(("unicorn", "ufo")))
    return f"{'an' if vowel else 'a'} {phrase}"


@cache
def glyph(noun: str):
    """Draw a subject's glyph, tightly cropped.

    Returns a PIL RGBA image of up to 136 x 128 pixels. Raises `PromptlabError` where the noun is unknown or Debian's
    emoji font is not installed: only building the world needs the font, using it does not.
    """
    from PIL import Image, ImageDraw, ImageFont

    if noun not in GLYPH:
        raise PromptlabError(f"The pocket world has no subject {noun!r}. promptlab.pocket.subjects.SUBJECTS lists them.")
    if not FONT.exists():
        raise PromptlabError(f"{FONT} is missing. Building the world needs it: apt-get install fonts-noto-color-emoji")
    font = ImageFont.truetype(str(FONT), 109)  # the one size at which this bitmap font has glyphs
    canvas = Image.new("RGBA", (180, 180))
    ImageDraw.Draw(canvas).text((20, 20), GLYPH[noun], font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None or box[2] - box[0] > 140:
        raise PromptlabError(f"{FONT} draws no single glyph for {noun!r} ({GLYPH[noun]}); use a newer fonts-noto-color-emoji.")
    return canvas.crop(box)
