"""The native engine's CPU reference, which its kernels are tested against, and openai-whisper."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="`make reference` installs it and compares")
whisper = pytest.importorskip("whisper", reason="`make reference` installs it and compares")

from duplex_asr.asr.engines import load_engine  # noqa: E402
from duplex_asr.asr.engines.cuda import CudaConfig, CudaEngine  # noqa: E402
from duplex_asr.asr.export.build_cuda import build_cuda_engine  # noqa: E402
from tests.asr.cuda_models import WIDE, noise_mel, write_wide_checkpoint  # noqa: E402
from tests.asr.torch_writer import write_byte_tokenizer  # noqa: E402
from tests.reference.recordings import relative_error  # noqa: E402

pytestmark = pytest.mark.filterwarnings("default")


def test_features_and_logits_are_whispers(tmp_path: Path, reference_library: Path) -> None:
    checkpoint = write_wide_checkpoint(tmp_path / "wide.pt")
    tokenizer = write_byte_tokenizer(tmp_path / "bytes.tiktoken")
    build_cuda_engine(checkpoint, tmp_path / "cuda", tokenizer_path=tokenizer)
    ours = load_engine(tmp_path / "cuda", cuda=CudaConfig(library=str(reference_library)))
    assert isinstance(ours, CudaEngine)
    theirs = whisper.model.Whisper(whisper.model.ModelDimensions(**vars(WIDE)))
    content = torch.load(checkpoint, weights_only=True)
    theirs.load_state_dict(content["model_state_dict"], strict=False)
    theirs.float().eval()
    mel = noise_mel(1)
    tokens = [*ours.tokenizer.prompt(), *range(97, 120)]
    with torch.no_grad():
        features = theirs.encoder(torch.from_numpy(mel)[None])
        logits = theirs.decoder(torch.tensor([tokens]), features)[0].numpy()
    encoded, found = ours.encode_with_features(mel)
    errors = (
        relative_error(found, features[0].numpy()),
        relative_error(ours.logits(encoded, tokens), logits),
    )
    ours.close()
    print("relative errors of encoder and logits: {:.1e}, {:.1e}".format(*errors))
    assert max(errors) < 1e-5
