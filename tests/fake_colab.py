"""A `google.colab` as far as this course uses it: `install(folder)` writes the package there, importable from then on."""

from pathlib import Path

FILES = {
    "google/colab/__init__.py": "",
    "google/colab/drive.py": """
from pathlib import Path

def mount(where):
    if Path(where).name == "declined":
        raise ValueError("mount failed")
    (Path(where) / "MyDrive").mkdir(parents=True, exist_ok=True)
""",
    "google/colab/userdata.py": """
class SecretNotFoundError(Exception):
    pass

SECRETS = {}

def get(name):
    if name not in SECRETS:
        raise SecretNotFoundError(f"Secret {name} does not exist.")
    return SECRETS[name]
""",
    "google/colab/files.py": """
downloaded = []

def download(path):
    downloaded.append(path)
""",
}


def install(folder) -> Path:
    for name, text in FILES.items():
        path = Path(folder) / name  # no google/__init__.py: a namespace package, which other packages share
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Path(folder)
