"""Prompt lists: every quirk of the published ones, in files made here; no published list is handed on."""

import json
import math
import re
import subprocess
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dori_lite import cli, files
from dori_lite.stable_diffusion import lists

KINDS = {"nemo": {"VM": 112, "TM": 388}, "jeon-sd2": {"VM": 4, "TM": 215}}
ODD = [  # captions as they are published, or of their kind: none may lose a character
    '"Watch: Passion Pit\'s New Video, ""Lifted Up (1985)"""',
    "an unterminated &quot in a caption",
    "Sony Won't Release <i>The Interview</i> on VOD",
    "<em>South Park</em>: The Stick of Truth; and more",
    "two  spaces,  twice",
    "Being Good®, Kept™ and so on…",
    "Ultimate Expression 15′ Sahara",
    "Новый, 東京\u00a0and a span",
    " a blank before and one after ",
    "a\u2028line separator and a\x85next line are no ends of a line",
    "a backslash \\n and a 'quote'",
    "None",
    "NA",
    "nan",
]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DORI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def save(tmp_path):
    """Write a list: save("x.csv", text or bytes) → path."""

    def write(name, content, encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def quoted(field: str, separator: str) -> str:
    return '"' + field.replace('"', '""') + '"' if any(c in field for c in (separator, '"', "\n")) else field


def csv_of(captions, separator=";", header=("", "Caption", "URL", "type", "mean_sscd", "max_sscd", "Index"), rest=None):
    rest = rest or (lambda k: [f"http://x/{k}?a=1&amp;b=2", "VM", "0.8", "0.9", f"{k:06d}"])
    rows = [[str(k), caption, *rest(k)] for k, caption in enumerate(captions)]
    return "\n".join(separator.join(quoted(field, separator) for field in row) for row in [header, *rows]) + "\n"


# ---- not one character of a caption changes -------------------------------------------------------------------


@pytest.mark.parametrize("separator, ending", [(";", "csv"), (",", "csv"), ("\t", "csv"), ("\t", "tsv")])
def test_captions_in_tables_are_what_was_written(save, separator, ending):
    rows = lists.read(save(f"x.{ending}", csv_of(ODD, separator)))
    assert rows["caption"].tolist() == ODD
    assert rows["index"].tolist() == [f"{k:06d}" for k in range(len(ODD))]  # zeros in front stay
    assert rows["url"][1] == "http://x/1?a=1&amp;b=2"  # whoever downloads reads the entities
    assert rows["kind"].unique().tolist() == ["VM"] and rows["max_sscd"].tolist() == [0.9] * len(ODD)
    assert rows["name"][3] == "x-0003"


def test_captions_in_json_are_what_was_written(save):
    lines = [json.dumps({"caption": c, "index": 7, "url": None}, ensure_ascii=k % 2 == 0) for k, c in enumerate(ODD)]
    rows = lists.read(save("x.jsonl", "\n".join(lines)))
    assert rows["caption"].tolist() == ODD and rows["index"].tolist() == ["7"] * len(ODD)
    assert rows["url"].tolist() == [""] * len(ODD)
    one = lists.read(save("y.json", json.dumps([{"text": [c], "URL": ["u"]} for c in ODD])))  # values in lists
    assert one["caption"].tolist() == ODD and one["url"].unique().tolist() == ["u"]


def test_captions_in_plain_text_are_what_was_written_quotes_too(save):
    rows = lists.read(save("x.txt", "\n".join([ODD[0], "", *ODD[1:], "  ", 'a "quoted" end'])))  # no last line's end
    assert rows["caption"].tolist() == [*ODD, 'a "quoted" end']
    assert lists.read(save("y.txt", "one\r\ntwo \r\n"))["caption"].tolist() == ["one", "two "]


def test_a_byte_order_mark_is_no_part_of_the_first_name(save):
    for name, text in {"x.csv": "caption,url\na,b\n", "x.txt": "a\n", "x.jsonl": '{"caption": "a"}'}.items():
        assert lists.read(save(name, text, "utf-8-sig"))["caption"].tolist() == ["a"]


# ---- columns -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alias", ["Caption", "caption", "prompt", "Prompt", "TEXT", "text", " captions "])
def test_columns_have_many_names(save, alias):
    rows = lists.read(save("x.csv", f"Index,{alias},image_url,overfit_type\n007,a fish,http://x,MV\n8,b,nan,TV\n"))
    assert rows["caption"].tolist() == ["a fish", "b"] and rows["url"].tolist() == ["http://x", ""]
    assert rows["kind"].tolist() == ["VM", "TM"] and rows["index"].tolist() == ["007", "8"]


def test_what_is_missing_is_missing_and_not_zero(save):
    rows = lists.read(save("x.csv", "caption;type;mean_sscd;max_sscd\na;TM;;\nb;TM;nan;0.5\n"))
    assert rows["mean_sscd"].isna().all() and math.isnan(rows["max_sscd"][0]) and rows["max_sscd"][1] == 0.5
    assert lists.read(save("y.txt", "a"))[["url", "kind", "index"]].iloc[0].tolist() == ["", "", ""]


def test_repeated_captions_are_marked_and_kept(save):
    rows = lists.read(save("x.txt", "a\nb\na\nA\na \n"))
    assert rows["repeats"].tolist() == ["", "", "x-0000", "", ""]  # case and a blank make another caption
    assert "5 captions, 1 of them repeat another, 0 with a URL" in lists.described(rows)


@pytest.mark.parametrize(
    "name, content, match",
    [
        ("x.csv", "a;b\n1;2\n", "x.csv has no column of captions; name one"),
        ("x.csv", "", "no column of captions"),
        ("x.csv", "caption;url\n", "holds no caption"),
        ("x.csv", "caption;url\na;b;c\n", "line 2 has 3 fields, the header 2"),
        ("x.csv", 'caption;url\na;b\n"c;d\n', "line 3: unexpected end of data"),
        ("x.csv", "caption;url\na;b\n;c\n", "line 3: the caption is empty"),
        ("x.csv", "caption;mean_sscd\na;high\n", "line 2: mean_sscd is 'high', which is no number"),
        ("x.csv", "caption;url\n\xe9;b\n".encode("latin-1"), "x.csv is not UTF-8 \\(byte 12\\)"),
        ("x.csv", "caption\0;url\na;b", "no text"),
        ("x.jsonl", '{"caption": "a"}\n{"caption"\n', "line 2 is no JSON"),
        ("x.jsonl", '{"caption": "a"}\n{"url": "b"}\n', r"line 2 has no caption \(it is None\)"),
        ("x.jsonl", '{"caption": NaN}', r"line 1 has no caption \(it is nan\)"),
        ("x.jsonl", '{"caption": ["a", "b"]}', "line 1 has no caption"),
        ("x.jsonl", '["a"]', "line 1 is a str, not an object"),
        ("x.jsonl", '{"caption": "\\ud800"}', "line 1: caption 0 holds half a character"),
        ("x.json", "[1", "x.json is no JSON"),
        ("x.txt", "\n \n", "holds no caption"),
        ("x.parquet", "caption", "a prompt list is a .csv, .tsv, .jsonl or .txt"),
    ],
)
def test_a_list_that_cannot_be_read_is_named_in_one_line(save, one_line, name, content, match):
    one_line(ValueError, match, lists.read, save(name, content))


def test_no_such_list(one_line, tmp_path):
    for name in ("nemo2", tmp_path, tmp_path / "none.csv"):
        one_line(
            FileNotFoundError, "no prompt list .*: give the path of a file, or one of: nemo, wen", lists.read, name
        )


# ---- the published ones, by a server that stands in -----------------------------------------------------------


def stand_ins(folder):
    """Files with the published lists' forms and counts, and captions of our own."""

    def captions(count, repeated=0):
        made = [f"{ODD[k % len(ODD)]} no. {k}" for k in range(count - repeated)]
        return made + made[:repeated]

    def kinds(count, first, words):
        return [words[0] if k < first else words[1] for k in range(count)]

    kind, made = kinds(500, 112, ("VM", "TM")), captions(500)
    odd = {k: f"https://x/{k}?u=a;b&amp;c" for k in range(9)}  # separators in addresses
    score = lambda k: ["", ""] if k >= 487 else ["0.8", "0.9"]  # noqa: E731
    rest = lambda k: [odd.get(k, f"https://x/{k}"), kind[k], *score(k), str(k)]  # noqa: E731
    (folder / "memorized_laion_prompts.csv").write_text(csv_of(made, rest=rest), "utf-8")
    lines = [json.dumps({"caption": c, "index": k, "url": f"https://x/{k}"}) for k, c in enumerate(made)]
    (folder / "sdv1_500_memorized.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    plain = csv_of(captions(500), header=("", "Caption", "URL"), rest=lambda k: ["https://x"])
    (folder / "unmemorized_laion_prompts.csv").write_text(plain, "utf-8")
    header, rest = ("", "Caption", "URL", "Index"), lambda k: ["", f"{k:012d}"]
    coco = csv_of(captions(10_000, 34), header=header, rest=rest)
    (folder / "coco2014_val_10000.csv").write_text(coco, "utf-8")
    for k in range(60):
        (folder / f"memorize_{k}.txt").write_text("\n".join(made[8 * k : 8 * k + 10]), "utf-8")
    for k in range(10):
        (folder / f"memorize_sd2_{k}.txt").write_text("\n".join(made[10 * k : 10 * k + 10]), "utf-8")
    kind = kinds(219, 4, ("MV", "TV"))
    lines = [json.dumps({"caption": c, "overfit_type": kind[k], "url": "u"}) for k, c in enumerate(made[:219])]
    (folder / "sd2_mem.jsonl").write_text("\n".join(lines), "utf-8")


@pytest.fixture
def served(tmp_path, monkeypatch, cache):
    """The known lists' addresses lead to a server on this machine; the digests are those of its files."""
    folder = tmp_path / "site"
    folder.mkdir()
    stand_ins(folder)
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    for name, known in lists.LISTS.items():
        digests = tuple(files.sha256(folder / file) for file in known.files) if known.sha256 else ()
        monkeypatch.setitem(lists.LISTS, name, lists.Known(here, known.files, known.of, digests))
    yield folder, asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    "name, count, repeated, urls",
    [
        ("nemo", 500, 0, 500),
        ("wen", 500, 0, 500),
        ("nemo-unmemorized", 500, 0, 500),
        ("nemo-coco", 10_000, 34, 0),
        ("concept-prune", 600, 118, 0),
        ("concept-prune-sd2", 100, 0, 0),
        ("jeon-sd2", 219, 0, 219),
    ],
)
def test_every_known_list_is_read_and_counted(served, name, count, repeated, urls, capsys):
    rows = lists.read(name, trust=True)
    assert len(rows) == count and rows["name"].is_unique
    assert (rows["repeats"] != "").sum() == repeated and (rows["url"] != "").sum() == urls
    assert rows["kind"].value_counts().to_dict() == KINDS.get(name, {"": count})
    said = lists.described(rows)
    assert (
        said.startswith(f"{count} captions")
        and (f"{repeated} of them repeat" if repeated else "none of them repeats") in said
    )
    assert ("112 VM, 388 TM" in said) == (name == "nemo")
    assert ("unverified" in capsys.readouterr().out) == (not lists.LISTS[name].sha256)


def test_a_list_is_fetched_once(served):
    _, asked = served
    lists.read("nemo")
    before = len(asked)
    assert before == 1 and len(lists.read("nemo")) == 500 and len(asked) == before


def test_without_trust_only_lists_with_a_known_digest_come(served, one_line, cache):
    for name, known in lists.LISTS.items():
        if not known.sha256:
            one_line(RuntimeError, "is not verified by anybody; .*--trust", lists.read, name)
    assert len(lists.read("wen")) == 500


def test_a_list_that_is_not_the_published_one_is_refused_and_not_kept(served, one_line, cache):
    folder, _ = served
    (folder / "memorized_laion_prompts.csv").write_text("caption\na\n")
    for trust in (False, True):
        match = "memorized_laion_prompts.csv is not the published file"
        one_line(ValueError, match, lists.read, "nemo", trust=trust)
    assert not [path for path in cache.rglob("*") if path.is_file()]
    lists.read("wen")
    (cache / "lists" / "wen" / "sdv1_500_memorized.jsonl").write_text('{"caption": "other"}')
    one_line(ValueError, "sdv1_500_memorized.jsonl is not the published file", lists.read, "wen")


def test_what_we_know_of_the_lists():
    """No digest was invented: two are known, computed from the repositories' files."""
    assert {name for name, known in lists.LISTS.items() if known.sha256} == {"nemo", "wen"}
    assert (
        lists.LISTS["nemo"].sha256[0].startswith("0b527a5965dc463e") and lists.LISTS["wen"].sha256[0][-6:] == "525c60"
    )
    for known in lists.LISTS.values():
        assert known.address.startswith("https://raw.githubusercontent.com/") and len(known.address.split("/")[5]) == 40


def test_the_command_fetches_and_counts(served, one_line, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr(sys, "argv", ["dori-lite", "fetch", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or capsys.readouterr().out

    assert said("nemo") == "nemo: 500 captions (112 VM, 388 TM), none of them repeats another, 500 with a URL\n"
    refused, file = said("nemo-coco"), "coco2014_val_10000.csv"
    assert re.fullmatch(f"dori-lite: {file} is not verified by anybody; .* `dori-lite fetch {file} --trust`", refused)
    assert "nemo-coco: 10000 captions, 34 of them" in said(file, "--trust")  # as it told us to
    assert said("nemo-coco").startswith("nemo-coco: 10000")  # trusted once
    assert said("web") == ("dori-lite: there is no download called 'web'; there are: sscd, " + ", ".join(lists.LISTS))


# ---- tokens, with the vocabulary of Stable Diffusion -----------------------------------------------------------


@pytest.fixture(scope="module")
def clip_tokenizer(tmp_path_factory):
    """CLIP's tokenizer, from the vocabulary that the package open_clip_torch ships. Skips where it cannot be had."""
    import gzip

    from transformers import CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder, "open_clip_torch==3.3.0"]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("open_clip_torch cannot be had here")
    [wheel] = folder.glob("*.whl")
    packed = zipfile.ZipFile(wheel).read("open_clip/bpe_simple_vocab_16e6.txt.gz")
    merges = [tuple(line.split()) for line in gzip.decompress(packed).decode().split("\n")[1 : 49152 - 256 - 2 + 1]]
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that are letters themselves
    rest = [byte for byte in range(256) if byte not in shown]
    symbols = [chr(byte) for byte in shown] + [chr(256 + k) for k in range(len(rest))]
    words = [*symbols, *(s + "</w>" for s in symbols), *map("".join, merges), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: k for k, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def test_the_vocabulary_is_stable_diffusion_s(clip_tokenizer):
    assert len(clip_tokenizer) == 49408
    assert clip_tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]


def test_captions_that_are_too_long_are_counted(clip_tokenizer, save):
    words = ["fish"] * 75, ["fish"] * 76
    rows = lists.read(save("x.txt", "\n".join([*map(" ".join, words), *ODD])))
    assert lists.too_long(rows["caption"], clip_tokenizer) == [1]
    assert "; 1 longer than the model's 77 tokens, cut there" in lists.described(rows, clip_tokenizer)
