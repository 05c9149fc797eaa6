"""Search quality and speed of the beam decoder, against those of other packages on the same work.

    python benchmarks/decoder.py emissions.npz lm.arpa --kenlm lm.probing \\
        --peer-python /path/to/env/bin/python --output benchmarks/results

emissions.npz holds `labels` (blank first), `refs`, and e0, e1, ...: log-probabilities (T, C);
decoder_emissions.py makes such files. Every second utterance is timed, after the others were
decoded: memories of language-model scores are those of a decoder that has worked, but on other
utterances. Q and the error rates are of all.
lm.probing is KenLM's binary of lm.arpa, for the peers, which run in an environment of their own
(see decoder_peers.py). All get the same emissions, language model, weights and words. Q is computed
afterwards, exactly and alike for every text that came out:

    ln P_ctc + lm_weight ln P_lm + word_score words + unk_score unknown words

P_ctc sums all labellings of the text, however many separators they have, and their alignments,
so Q tells how good the search was, and the processor time how dear. Times are processor seconds for
all utterances on one thread, the median of the repetitions (a peer that takes over 2 s runs once).
On a machine that other work shares, the run can be taken in parts, a peer at a time, each against
our times of the same minutes: --peers NAME --rows rows.json, whose last one writes the page of all.
--every 2 takes every second setting of ours and of theirs.
--realtime, which needs the privilege, keeps other processes from disturbing the comparison of one
thread with two, the only one by the wall clock.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from ctcspeech import BeamDecoder, LanguageModel
from ctcspeech.decode.hypothesis import Hypothesis
from ctcspeech.text.error_rates import word_errors

LN10 = np.log(10)
LM_WEIGHT, WORD_SCORE = 0.6, 2.5
UNK_SCORE = -10 * LN10 * LM_WEIGHT  # pyctcdecode's default cost of an unknown word

# (beam, threshold, token minimum): natural logarithms.
OURS = [
    (5, 12, -6), (8, 10, -5), (8, 12, -6), (12, 10, -6), (16, 10, -5), (50, 10, -5), (16, 12, -6),
    (32, 12, -6), (50, 12, -6), (50, 13, -7), (50, 15, -8), (100, 15, -8), (500, 15, -8),
    (200, 16, -8.5), (100, 18, -9), (500, 18, -9), (200, 20, -10), (500, 20, -10), (2000, 20, -10),
]  # fmt: skip
# pyctcdecode and ctc-beam-decoder have the same parameters as ours.
WITH_MINIMUM = [
    {"beam": beam, "threshold": threshold, "minimum": minimum}
    for beam, threshold, minimum in [
        (5, 12, -6), (8, 10, -5), (8, 12, -6), (16, 10, -5), (16, 12, -6), (32, 12, -6),
        (50, 10, -5), (50, 12, -6), (50, 13, -7), (50, 15, -8), (100, 10, -5), (100, 15, -8),
        (200, 16, -8.5), (100, 18, -9),
    ]
]  # fmt: skip
PEERS = {
    "flashlight-text": [
        {"beam": beam, "threshold": threshold, **({"tokens": tokens} if tokens else {}),
         "log_add": log_add}
        for beam, threshold, tokens, log_add in [
            (8, 10, 8, False), (8, 12, 8, True), (16, 10, 8, False), (16, 10, 8, True),
            (16, 10, None, False), (32, 10, 8, True), (32, 12, 5, True), (50, 10, 5, True),
            (50, 10, None, False), (50, 10, 8, True), (50, 12, 8, True), (100, 10, 8, False),
            (100, 10, None, False), (100, 12, 5, True), (100, 12, 8, True), (100, 15, 8, True),
            (100, 15, None, True), (500, 15, 12, True), (500, 15, None, True),
        ]
    ],
    "torchaudio": [
        {"beam": beam, "threshold": threshold}
        for beam, threshold in [(8, 12), (16, 12), (50, 10), (50, 50), (100, 15), (500, 50)]
    ],
    "ctc-beam-decoder": WITH_MINIMUM,
    "pyctcdecode": WITH_MINIMUM,
}  # fmt: skip
OPEN_PEERS = ("pyctcdecode", "ctc-beam-decoder")  # they may write words outside the vocabulary


class Task:
    """The emissions, the language model, and the exact Q of any text."""

    def __init__(self, path, lm, utterances):
        stored = np.load(path)
        self.path = path
        self.labels = [str(label) for label in stored["labels"]]
        self.references = [str(text) for text in stored["refs"]][:utterances]
        self.emissions = [stored[f"e{i}"] for i in range(len(self.references))]
        self.lm = lm
        self.plain = BeamDecoder(self.labels)
        self.known = {}
        letters = set("".join(self.labels[1:])) - {" "}
        self.words = sorted(
            word
            for word in lm.vocabulary
            if word not in ("<s>", "</s>", "<unk>") and set(word) <= letters
        )

    def q(self, i, text):
        if (i, text) not in self.known:
            tokens = [self.labels.index(c) for c in text]
            hypothesis = Hypothesis(text, tokens, 0.0, 0.0, 0.0)
            ctc_score = self.plain.exact_ctc_score(self.emissions[i], hypothesis)
            words = text.split()
            value = LM_WEIGHT * LN10 * self.lm.score(words) + WORD_SCORE * len(words)
            value += UNK_SCORE * sum(word not in self.lm for word in words)
            self.known[i, text] = value + ctc_score
        return self.known[i, text]

    def judge(self, texts):
        """Mean Q and word error rate in percent."""
        counts = [word_errors(r, t) for r, t in zip(self.references, texts, strict=True)]
        errors = sum(c.errors for c in counts) / sum(len(r.split()) for r in self.references)
        return statistics.fmean(self.q(i, text) for i, text in enumerate(texts)), 100 * errors


def timed(work, repeats, clock=time.process_time):
    times, result = [], None
    for _ in range(repeats):
        start = clock()
        result = work()
        times.append(clock() - start)
    return statistics.median(times), min(times), max(times), result


def decoder_for(task, setting, **changes):
    beam, threshold, minimum = setting
    arguments = {
        "lm_weight": LM_WEIGHT,
        "word_score": WORD_SCORE,
        "unk_score": UNK_SCORE,
        "beam_size": beam,
        "beam_threshold": threshold,
        "token_min_logp": minimum,
        "word_times": False,
        "threads": 1,
        "lexicon": task.words,
    }
    return BeamDecoder(task.labels, task.lm, **{**arguments, **changes})


def run_ours(task, repeats, every):
    rows = []
    for vocabulary in ("closed", "open"):
        for setting in OURS[::every]:
            decoder = decoder_for(task, setting, open_vocabulary=vocabulary == "open")
            out = decoder.decode(task.emissions)
            q, wer = task.judge([hypotheses[0].text for hypotheses in out])
            times = []
            for _ in range(repeats):  # each time a decoder that has seen only the others
                decoder = decoder.replace()
                decoder.decode(task.emissions[::2])
                start = time.process_time()
                decoder.decode(task.emissions[1::2])
                times.append(time.process_time() - start)
            median, low, high = statistics.median(times), min(times), max(times)
            rows.append(
                {"name": "ctcspeech", "vocabulary": vocabulary, "setting": str(setting),
                 "seconds": median, "low": low, "high": high, "q": q, "wer": wer}
            )  # fmt: skip
            print(rows[-1], flush=True)
    return rows


def run_peers(task, arguments):
    with tempfile.TemporaryDirectory() as folder:
        lexicon = Path(folder) / "lexicon.txt"
        lexicon.write_text("".join(f"{w} {' '.join(w)} |\n" for w in task.words))
        jobs = [
            {"peer": peer, "kenlm": str(arguments.kenlm), "lm_weight": LM_WEIGHT,
             "word_score": WORD_SCORE, "repeats": arguments.repeats, "lexicon": str(lexicon),
             **setting}
            for peer in arguments.peers for setting in PEERS[peer][:: arguments.every]
        ]  # fmt: skip
        request = {
            "emissions": str(task.path),
            "utterances": len(task.references),
            "words": task.words,
            "jobs": jobs,
        }
        file = Path(folder) / "jobs.json"
        file.write_text(json.dumps(request))
        script = Path(__file__).with_name("decoder_peers.py")
        answers = []
        with subprocess.Popen(
            [arguments.peer_python, str(script), str(file)], stdout=subprocess.PIPE, text=True
        ) as process:
            for line in process.stdout:
                if line.startswith("RESULT "):
                    answers.append(json.loads(line[len("RESULT ") :]))
                    print({k: v for k, v in answers[-1].items() if k not in ("texts", "kenlm")})
        if process.returncode != 0:
            raise SystemExit(f"{script} failed with exit code {process.returncode}")
    rows = []
    for answer in answers:
        if "error" in answer:
            continue
        q, wer = task.judge(answer["texts"])
        setting = [answer["beam"], answer["threshold"], answer.get("minimum", "-")]
        extra = [k for k in ("log_add",) if answer.get(k)]
        extra += [f"{answer['tokens']} tokens"] if "tokens" in answer else []
        vocabulary = "open" if answer["peer"] in OPEN_PEERS else "closed"
        rows.append(
            {"name": answer["peer"], "vocabulary": vocabulary,
             "setting": ", ".join(map(str, setting + extra)),
             "seconds": statistics.median(answer["cpu"]), "low": min(answer["cpu"]),
             "high": max(answer["cpu"]), "q": q, "wer": wer}
        )  # fmt: skip
    return rows


def factors(rows):
    """For each point of a peer: our fastest point with at least its Q, same vocabulary."""
    for row in rows:
        if row["name"] == "ctcspeech":
            continue
        better = [
            r
            for r in rows
            if r["name"] == "ctcspeech"
            and r["vocabulary"] == row["vocabulary"]
            and r["q"] >= row["q"]
        ]
        if better:
            best = min(better, key=lambda r: r["seconds"])
            row["against"] = best["setting"]
            row["factor"] = row["seconds"] / best["seconds"]


def together(rows):
    """Rows of several parts: ours were timed in each, theirs in one."""
    found = {}
    for row in rows:
        found.setdefault((row["name"], row["vocabulary"], row["setting"]), []).append(row)
    return [
        {
            **same[0],
            "seconds": statistics.median(row["seconds"] for row in same),
            "low": min(row["low"] for row in same),
            "high": max(row["high"] for row in same),
        }
        for same in found.values()
    ]


@contextlib.contextmanager
def undisturbed(realtime):
    """Runs what is inside before all other processes of the machine."""
    if realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        yield
    finally:
        if realtime:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def run_extras(task, repeats, realtime):
    """What word times, n-best lists, threads and streams cost."""
    setting = (100, 15, -8)
    out = {}
    # Alternately, so that a machine that slows down slows all of them.
    decoders = {
        "plain": decoder_for(task, setting),
        "times": decoder_for(task, setting, word_times=True),
        "nbest": decoder_for(task, setting, n_best=10),
    }
    times = {name: [] for name in decoders}
    for decoder in decoders.values():
        decoder.decode(task.emissions)
    for _ in range(3 * repeats):
        for name, decoder in decoders.items():
            start = time.process_time()
            decoder.decode(task.emissions)
            times[name].append(time.process_time() - start)
    out.update({name: statistics.median(values) for name, values in times.items()})
    many = task.emissions * 8
    one, two = decoder_for(task, setting), decoder_for(task, setting, threads=2)
    ratios, walls = [], {1: [], 2: []}
    for _ in range(3 * repeats):
        for threads, decoder in ((1, one), (2, two)):
            with undisturbed(realtime):
                start = time.perf_counter()
                decoder.decode(many)
                walls[threads].append(time.perf_counter() - start)
        ratios.append(walls[1][-1] / walls[2][-1])
    out["threads"] = statistics.median(ratios)
    out["realtime"] = ", scheduled before other processes" if realtime else ""
    out["threads_best"] = min(walls[1]) / min(walls[2])
    out["threads_all"] = [round(r, 2) for r in ratios]
    stream_decoder = decoder_for(task, setting, word_times=True, open_vocabulary=True)
    stream = stream_decoder.stream()
    whole = np.concatenate(task.emissions)
    most = 0
    start = time.process_time()
    for i in range(0, len(whole), 20):
        stream.accept(whole[i : i + 20])
        stream.partial()
        most = max(most, stream.num_bytes)
    stream.finish()
    out["stream_seconds"] = time.process_time() - start
    out["stream_bytes"] = most
    out["stream_frames"] = len(whole)
    return out


def machine():
    info = Path("/proc/cpuinfo").read_text()
    model = next(line.split(":")[1].strip() for line in info.split("\n") if "model name" in line)
    numbers = [line for line in info.split("\n") if line.startswith(("cpu family", "model\t"))][:2]
    numbers = ", ".join(" ".join(n.replace(":", "").split()) for n in numbers)
    return f"{model} ({numbers}), {info.count('processor')} cores"


def write(folder, rows, extras, task, command):
    seconds = sum(map(len, task.emissions)) * 0.02
    lines = [
        "# The beam decoder against other packages",
        "",
        f"{len(task.emissions)} utterances, {seconds:.0f} s at 50 frames a second, "
        f"{len(task.labels)} labels; {task.lm.order}-gram of {sum(task.lm.counts):,} n-grams, "
        f"{len(task.words):,} words; lm_weight {LM_WEIGHT}, word_score {WORD_SCORE}. "
        f"{machine()}. Command:",
        "",
        f"    {command}",
        "",
        "Q: mean of the exact objective of the texts that came out (higher is better). Seconds: "
        "processor time for every second utterance, each decoder warmed on the others only, one "
        "thread, n-best 1, median of the repetitions (least to most). Setting: beam, threshold, "
        "least token log-probability. Factor: how much faster "
        "our fastest setting with at least that Q is, in the same kind of vocabulary; pyctcdecode "
        "and ctc-beam-decoder may write unknown words, flashlight and torchaudio may not.",
        "",
        "| decoder | vocabulary | setting | seconds | Q | WER % | factor | against |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(rows, key=lambda r: (r["vocabulary"], r["name"], r["seconds"])):
        factor = f"{r['factor']:.1f}" if "factor" in r else ""
        lines.append(
            f"| {r['name']} | {r['vocabulary']} | {r['setting']} | {r['seconds']:.3f} "
            f"({r['low']:.3f} to {r['high']:.3f}) | {r['q']:.2f} | {r['wer']:.2f} | {factor} | "
            f"{r.get('against', '')} |"
        )
    lines += ["", "![Q against time](decoder.svg)", ""]
    if extras:
        lines += lines_of(extras)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "decoder.md").write_text("\n".join(lines))
    draw(folder / "decoder.svg", rows)


def lines_of(e):
    return [
        "At beam 100, threshold 15, token minimum -8, closed vocabulary:",
        "",
        f"- word times and confidences: {100 * (e['times'] / e['plain'] - 1):+.1f}% time; "
        f"n-best 10: {100 * (e['nbest'] / e['plain'] - 1):+.1f}%.",
        f"- two threads (wall clock, pairs run in turn{e['realtime']}): {e['threads']:.2f} times "
        f"as fast as one in the median, {e['threads_best']:.2f} best against best; all: "
        f"{e['threads_all']}.",
        f"- one stream of {e['stream_frames']} frames, open vocabulary, chunks of 20 frames with "
        f"a partial result after each: {e['stream_seconds']:.3f} s, at most "
        f"{e['stream_bytes'] / 1e6:.2f} MB beyond the shared model.",
        "",
    ]


def draw(path, rows):
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5))
    names = sorted({(r["name"], r["vocabulary"]) for r in rows})
    for name, vocabulary in names:
        points = [r for r in rows if (r["name"], r["vocabulary"]) == (name, vocabulary)]
        points.sort(key=lambda r: r["seconds"])
        style = "-" if vocabulary == "closed" else "--"
        axes.plot(
            [r["seconds"] for r in points], [r["q"] for r in points], style, marker="o",
            markersize=4, label=f"{name}, {vocabulary}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("processor seconds, one thread")
    axes.set_ylabel("Q (exact, mean)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("emissions", type=Path)
    parser.add_argument("lm", type=Path)
    parser.add_argument("--kenlm", type=Path, help="KenLM's binary of the same model, for peers")
    parser.add_argument("--peer-python", help="interpreter of the peers' environment")
    parser.add_argument("--utterances", type=int, default=None, help="only the first so many")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--every", type=int, default=1, help="take every so-manieth setting")
    parser.add_argument("--rows", type=Path, help="file of the parts so far; no word times etc.")
    parser.add_argument("--realtime", action="store_true", help="real-time scheduling, see above")
    parser.add_argument("--output", type=Path, default=None, help="folder for decoder.md and .svg")
    arguments = parser.parse_args()
    task = Task(arguments.emissions, LanguageModel.load(arguments.lm), arguments.utterances)
    rows = run_ours(task, arguments.repeats, arguments.every)
    if arguments.peer_python:
        rows += run_peers(task, arguments)
    factors(rows)
    if arguments.rows:
        before = json.loads(arguments.rows.read_text()) if arguments.rows.exists() else []
        arguments.rows.write_text(json.dumps(before + rows))
        rows, extras = together(before + rows), None
    else:
        extras = run_extras(task, arguments.repeats, arguments.realtime)
    for row in rows:
        print(row)
    print(extras)
    if arguments.output:
        command = (
            "python benchmarks/decoder.py emissions.npz lm.arpa --kenlm lm.probing "
            f"--peer-python python --repeats {arguments.repeats}"
            + (f" --every {arguments.every}" if arguments.every > 1 else "")
            + (" --rows rows.json --peers NAME" if arguments.rows else "")
            + (" --realtime" if arguments.realtime else "")
            + " --output benchmarks/results"
        )
        write(arguments.output, rows, extras, task, command)


if __name__ == "__main__":
    main()
