"""What all tests share: no network, and a tiny world with random weights in the format of data/pocket."""

import dataclasses
import importlib.util
import json
import os
from pathlib import Path

import pytest

from promptlab import config

HERE = Path(__file__).parent

# Runs in this process and, as `sitecustomize`, in every Python that a test starts (kernels of notebooks among them).
OFFLINE = """
import os
import socket
from pathlib import Path

ATTEMPTS = Path(__file__).with_name("attempts.txt")
LOCAL = (None, "", b"", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::", socket.gethostname())


def refuse(host):
    if str(host).endswith(".localhost"):  # a name of this machine by definition (RFC 6761), so nothing was tried
        raise OSError(f"nobody is called {host!r}")
    if host not in LOCAL and not str(host).startswith("127."):
        with ATTEMPTS.open("a") as f:
            f.write(f"{os.getpid()} {host!r}\\n")
        raise OSError(f"tests are offline: no connection to {host!r}")


def guard(name):
    plain = getattr(socket.socket, name)

    def guarded(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6):
            refuse(address[0])
        return plain(self, address)

    setattr(socket.socket, name, guarded)


def guarded_lookup(host, *args, plain=socket.getaddrinfo, **kwargs):
    refuse(host.decode() if isinstance(host, bytes) else host)
    return plain(host, *args, **kwargs)


guard("connect"), guard("connect_ex")
socket.getaddrinfo = guarded_lookup
"""


def pytest_collection_modifyitems(items):
    """What may take long comes first: started last, it would leave the other worker of `make test` without work.

    That is what has a timeout of its own, and of the rest what stands directly in this folder: files of the rooms are smaller.
    """

    def limit(item):
        own = item.get_closest_marker("timeout")
        return own.args[0] if own else 0, "03_ppo" in item.name, item.path.parent == HERE  # 03 is the lesson that trains most

    items.sort(key=limit, reverse=True)  # stable: the rest stays as it was


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A worker is given a file as a whole, so that what its tests share is made once; of the notebooks one at a time, as they take minutes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.split("::")[0]
            return nodeid if file.endswith("test_notebooks.py") else file

    config.option.loadscopereorder = False  # the order is the one above
    return ByFile(config, log)


def pytest_terminal_summary(terminalreporter):
    """The effects that the notebooks showed, one line each: workers have no terminal of their own to print them to."""
    reports = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    if lines := [text for report in reports for name, text in report.user_properties if name == "effect"]:
        terminalreporter.section("effects shown by the notebooks")
        terminalreporter.write("\n".join(sorted(lines)) + "\n")


@pytest.fixture(scope="session")
def offline_folder(tmp_path_factory):
    """Blocks every connection but those to this machine, here and in child processes; the folder logs attempts."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(OFFLINE)
    spec = importlib.util.spec_from_file_location("offline", folder / "sitecustomize.py")
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("PROMPTLAB_HOME", str(tmp_path_factory.mktemp("home")))
        yield folder


@pytest.fixture(autouse=True)
def offline(offline_folder):
    """Fails a test that tried to reach another machine, even where the code under test swallowed the refusal."""
    log = offline_folder / "attempts.txt"
    before = log.read_text() if log.exists() else ""
    yield
    tried = (log.read_text() if log.exists() else "").removeprefix(before)
    assert not tried, f"the network was tried (process, host):\n{tried}"


@pytest.fixture
def font():
    """For tests that render: only building the world needs Debian's emoji font, so elsewhere it may be missing."""
    from promptlab.pocket.subjects import FONT

    if not FONT.exists():
        pytest.skip(f"{FONT} is missing: apt-get install fonts-noto-color-emoji")


def tiny_parts():
    """Random weights in the shapes of a world: tokenizer, CLIP, VAE, UNet, head, judge. Same weights on every call."""
    import torch
    from diffusers import AutoencoderTiny, UNet2DConditionModel

    from promptlab.models.aesthetic import aesthetic_head
    from promptlab.pocket import clip, judge, pairs

    torch.manual_seed(0)
    tokenizer = clip.train_tokenizer(clip.caption_corpus(pairs.sample_pictures(400, 1)))
    model = clip.new_clip(len(tokenizer))
    with torch.no_grad():  # 0.01 at the start, too small for a prompt to change a picture
        model.token_embedding.weight.mul_(50)
    channels = dict(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    vae = AutoencoderTiny(**channels, num_encoder_blocks=(0, 0, 0, 1), num_decoder_blocks=(1, 0, 0, 0), latent_channels=16)
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=16, out_channels=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=192, attention_head_dim=2,
    )  # fmt: skip
    with torch.no_grad():
        for module in unet.modules():
            if type(module).__name__ == "Attention":
                module.to_out[0].weight.mul_(8)
        unet.conv_out.weight.mul_(3), vae.decoder.layers[-1].weight.mul_(8), vae.decoder.layers[-1].bias.fill_(0.5)
        for _ in range(8):  # batch norms that have seen something tell pictures apart
            model.train().encode_image(torch.randn(8, 3, 8, 8).repeat_interleave(8, 2).repeat_interleave(8, 3))
    return tokenizer, model.eval(), vae, unet, aesthetic_head(), judge.Judge()


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory):
    """A folder like data/pocket, written by the project's own save functions; copy it before you damage it."""
    from promptlab.pocket import clip, unet
    from promptlab.pocket.build import save_safetensors

    folder = tmp_path_factory.mktemp("data") / "tiny"
    tokenizer, model, vae, denoiser, head, eye = tiny_parts()
    unet.save(denoiser, clip.text_encoder_from(model), vae, 1.25, tokenizer, folder / "generator")
    clip.save(model, tokenizer, folder / "clip")
    save_safetensors(eye, folder / "judge" / "model.safetensors")
    save_safetensors(head, folder / "aesthetic" / "model.safetensors")
    figures = {"relevance_slope": 30.0, "relevance_threshold": 0.02, "aesthetic_scale": 2.0}
    (folder / "calibration.json").write_text(json.dumps(figures))
    return folder


def preset_at(folder):
    """The pocket preset, small, with its weights at `folder`."""
    places = {part: str(folder / part) for part in ("generator", "clip", "aesthetic", "judge")}
    return dataclasses.replace(config.POCKET, name="tiny", **places, calibration=str(folder / "calibration.json"), steps=2, batch=4)


@pytest.fixture(scope="session")
def tiny_preset(tiny_world):
    return preset_at(tiny_world)


@pytest.fixture(scope="session")
def tiny_generator(tiny_preset):
    import torch

    from promptlab.pictures.load import load_generator

    return load_generator(tiny_preset, torch.float32)  # exactness is tested without the rounding of a CPU's bfloat16


@pytest.fixture(scope="session")
def tiny_clip(tiny_world):
    from promptlab.models.clip import Clip

    return Clip(tiny_world / "clip")


@pytest.fixture
def tiny_scorer(tiny_preset, tiny_generator, tmp_path):
    """A Scorer on the tiny world with an empty cache."""
    from promptlab.rewards import Scorer

    scorer = Scorer(tiny_preset, tmp_path / "cache")
    scorer.gallery.generator = tiny_generator  # spares loading it again
    return scorer
