"""torchaudio's decoder interface, against torchaudio's own answers in tests/golden/decoders."""

import json
from pathlib import Path

import pytest
import torch

from ctcspeech.compat.torchaudio import ctc_decoder

FOLDER = Path(__file__).parent / "golden" / "decoders"
GOLDEN = json.loads((FOLDER / "golden.json").read_text())
SPOKEN = [torch.tensor(item) for item in GOLDEN["ending"]]
TOKENS = ["-", "|", "a", "b", "c", "d", "e"]
CASES = {case["name"]: case for case in GOLDEN["torchaudio"]}


def build(name, **more):
    options = dict(CASES[name]["build"])
    for key in ("lexicon", "lm"):
        if options.get(key):
            options[key] = str(FOLDER / options[key])
    return ctc_decoder(tokens=TOKENS, beam_size=500, **{**options, **more})


@pytest.mark.parametrize("name", CASES)
def test_the_answers_are_those_of_torchaudio(name):
    decoder = build(name, nbest=3)
    # flashlight's sums have alignments in them that differ in the silence at the end.
    tolerance = 0.15 if "sums" in name else 2e-3
    for item, golden in zip(SPOKEN, CASES[name]["hypotheses"], strict=True):
        found = decoder(item[None])[0]
        assert len(found) == len(golden)
        tokens, words, score, timesteps = golden[0]
        assert found[0].tokens.tolist() == tokens
        assert found[0].words == words
        assert found[0].score == pytest.approx(score, abs=tolerance)
        steps = found[0].timesteps.numpy()
        assert abs(steps - timesteps).max() <= (1 if "sums" in name else 0)
        if words:  # without a lexicon, lists differ: ours have no two of the same text
            for ours, theirs in zip(found, golden, strict=True):
                assert ours.score > theirs[2] - tolerance


def test_batches_lengths_types_and_steps():
    decoder = build("model")
    batch = torch.nn.utils.rnn.pad_sequence(SPOKEN, batch_first=True)
    lengths = torch.tensor([len(item) for item in SPOKEN])
    found = decoder(batch, lengths)
    for item, (best,) in zip(SPOKEN, found, strict=True):
        (alone,) = decoder(item[None])[0]
        assert best.words == alone.words and best.score == pytest.approx(alone.score)
        assert best.tokens.dtype == torch.int64 and best.timesteps.dtype == torch.int32
        decoder.decode_begin()
        for chunk in item.split(7):
            decoder.decode_step(chunk)
        decoder.decode_end()
        (stepped,) = decoder.get_final_hypothesis()
        assert stepped.words == alone.words and stepped.score == pytest.approx(alone.score)
    best = found[0][0]
    assert "".join(decoder.idxs_to_tokens(best.tokens)) == "|bad|cab||"


def test_unknown_words():
    closed = build("model")(SPOKEN[3][None])[0][0]
    assert closed.words == ["a", "bead", "cab"]
    opened = build("model", unk_score=0.0)(SPOKEN[3][None])[0][0]
    assert opened.words == ["a", "<unk>", "cab"]


def test_scores_of_unnormalised_emissions():
    decoder = build("no lexicon")
    (plain,), (moved,) = decoder(SPOKEN[0][None])[0], decoder(SPOKEN[0][None] + 1.0)[0]
    assert moved.score == pytest.approx(plain.score + len(SPOKEN[0]), abs=1e-3)


def test_faults(tmp_path):
    decoder = build("no lexicon")
    with pytest.raises(ValueError, match="float32"):
        decoder(SPOKEN[0][None].double())
    with pytest.raises(RuntimeError, match="3D"):
        decoder(SPOKEN[0])
    with pytest.raises(RuntimeError, match="decode_begin"):
        decoder.decode_step(SPOKEN[0])
    with pytest.raises(ValueError, match="blank_token '-' is none of the tokens"):
        ctc_decoder(None, ["a", "|"])
    lexicon = tmp_path / "lexicon.txt"
    for line, words in [("bad b a x", "'x' is none of"), ("BAD b a d |", "must be its own")]:
        lexicon.write_text(line + "\n")
        with pytest.raises(ValueError, match=words):
            ctc_decoder(str(lexicon), TOKENS)
    file = tmp_path / "tokens.txt"
    file.write_text("\n".join(TOKENS) + "\n")
    texts = [
        ctc_decoder(None, names)(SPOKEN[0][None])[0][0].tokens for names in (str(file), TOKENS)
    ]
    assert texts[0].tolist() == texts[1].tolist()
