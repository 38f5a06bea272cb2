import base64
import zlib

import pytest

from shared.domain.binary_patch import MAX_BYTES, blob_id
from shared.domain.patch import BadPatch, File, PatchConflict, parse

REGULAR = "100644"
EIGHT = b"".join(b"line %d\n" % number for number in range(1, 9))
MAIL = """\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: Ada <ada@example.test>
Date: Mon, 23 Nov 2026 09:00:00 +0000
Subject: [PATCH] AI: do it

--- this is no header
---
 a.txt | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

{diff}-- {newline}2.39.5

"""


def diff(*lines, path="a.txt", headers=("index 1111111..2222222 100644",)):
    names = (f"diff --git a/{path} b/{path}", *headers, f"--- a/{path}", f"+++ b/{path}")
    return "\n".join([*names, *lines]) + "\n"


def applied(patch, before):
    """The contents of the only file of the patch, afterwards."""
    [part] = parse(patch)
    after = part.applied_to(File(REGULAR, before))
    return after.content if after else None


# --- lines --------------------------------------------------------------------------------------------------


def test_lines_outside_the_hunks_stay_as_they_are():
    patch = diff(
        "@@ -2,3 +2,3 @@ line 1", " line 2", "-line 3", "+LINE 3", " line 4", "@@ -7 +7,2 @@", " line 7", "+new"
    )

    assert applied(patch, EIGHT) == EIGHT.replace(b"line 3", b"LINE 3").replace(b"line 7\n", b"line 7\nnew\n")


def test_lines_that_look_like_headers_are_lines():
    before = b"-- \n-- a/x\ndiff --git a/x b/x\n@@ -1 +1 @@\n"
    patch = diff("@@ -1,4 +1,3 @@", "--- ", "--- a/x", "++ b/x", " diff --git a/x b/x", " @@ -1 +1 @@")

    assert applied(patch, before) == b"+ b/x\ndiff --git a/x b/x\n@@ -1 +1 @@\n"


@pytest.mark.parametrize(
    ("lines", "before", "after"),
    [
        (["-a", "\\ No newline at end of file", "+b", "\\ No newline at end of file"], b"a", b"b"),
        (["-a", "\\ No newline at end of file", "+a"], b"a", b"a\n"),
        (["-a", "+a", "\\ No newline at end of file"], b"a\n", b"a"),
        (["-a\r", "+a"], b"a\r\n", b"a\n"),
    ],
)
def test_the_end_of_a_line_and_of_a_file_is_part_of_it(lines, before, after):
    assert applied(diff("@@ -1 +1 @@", *lines), before) == after


@pytest.mark.parametrize("before", [b"a\r\n", b"a", b"a ", b"A\n", b"", b"b\na\n"])
def test_a_line_that_is_not_just_the_one_in_the_patch_is_a_conflict(before):
    with pytest.raises(PatchConflict, match="has changed"):
        applied(diff("@@ -1 +1 @@", "-a", "+b"), before)


def test_a_hunk_is_not_looked_for_elsewhere():
    patch = diff("@@ -3 +3 @@", "-line 3", "+x")

    assert applied(patch, EIGHT)
    with pytest.raises(PatchConflict):
        applied(patch, b"one more\n" + EIGHT)


@pytest.mark.parametrize(
    "lines",
    [
        ["@@ -3 +3 @@", "-line 3", "+x", "@@ -2 +2 @@", "-line 2", "+y"],
        ["@@ -3 +3 @@", "-line 3", "+x", "@@ -3 +3 @@", "-line 3", "+y"],
        ["@@ -20,0 +21 @@", "+far beyond the end"],
        ["@@ -3 +3 @@", "-line 3", "+x", "\\ No newline at end of file"],
    ],
    ids=["backwards", "twice", "beyond", "an end in the middle"],
)
def test_hunks_that_cannot_be_of_this_file_are_a_conflict(lines):
    with pytest.raises(PatchConflict):
        applied(diff(*lines), EIGHT)


# --- files --------------------------------------------------------------------------------------------------


def test_a_mail_is_read_from_its_diff_to_its_signature():
    mail = MAIL.format(diff=diff("@@ -1 +1 @@", "-a", "+b"), newline="\n")

    assert applied(mail, b"a\n") == b"b\n"


def test_a_plain_diff_is_enough():
    patch = "--- a/a.txt\t2026-11-23 09:00:00\n+++ b/a.txt\t2026-11-23 09:00:01\n@@ -1 +1 @@\n-a\n+b\n"
    [part] = parse(patch)

    assert part.applied_to(File("100755", b"a\n")) == File("100755", b"b\n")


def test_a_plain_diff_makes_and_deletes_files():
    made, deleted = parse("--- /dev/null\n+++ b/new\n@@ -0,0 +1 @@\n+n\n--- a/old\n+++ /dev/null\n@@ -1 +0,0 @@\n-o\n")

    assert (made.path, made.source, made.applied_to(None)) == ("new", None, File(REGULAR, b"n\n"))
    assert (deleted.path, deleted.deletes, deleted.applied_to(File(REGULAR, b"o\n"))) == ("old", True, None)


@pytest.mark.parametrize(
    ("headers", "before", "after"),
    [
        (["new file mode 100755", "index 0000000..e69de29"], None, File("100755", b"")),
        (["deleted file mode 100644", "index e69de29..0000000"], File(REGULAR, b""), None),
        (["old mode 100644", "new mode 100755"], File(REGULAR, b"a"), File("100755", b"a")),
    ],
)
def test_a_file_can_change_without_any_lines(headers, before, after):
    [part] = parse("\n".join(["diff --git a/a b b/a b", *headers]) + "\n")

    assert part.path == "a b"
    assert part.applied_to(before) == after


def test_a_renamed_file_keeps_its_mode_and_what_is_not_changed():
    title = "diff --git a/old b/new\nsimilarity index 90%\nrename from old\nrename to new\n"
    lines = "index 1111111..2222222\n--- a/old\n+++ b/new\n@@ -1 +1 @@\n-a\n+b\n"
    moved, edited = parse(title + title + lines)

    assert (moved.source, moved.path, moved.deletes) == ("old", "new", False)
    assert moved.applied_to(File("120000", b"a\n")) == File("120000", b"a\n")
    assert edited.applied_to(File("100755", b"a\n")) == File("100755", b"b\n")


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("a b.txt", "a b.txt"),
        ("a b/a b", "a b/a b"),
        (r'"a/gr\303\274n"', "grün"),
        (r'"a/quote\".txt"', 'quote".txt'),
        (r'"a/tab\tnewline\nbackslash\\"', "tab\tnewline\nbackslash\\"),
    ],
)
def test_names_are_read_as_git_writes_them(written, path):
    old = written if written.startswith('"') else f"a/{written}"
    new = old.replace("a/", "b/", 1)
    tab = "\t" if " " in written else ""
    index = "index 1111111..2222222 100644"
    [part] = parse(f"diff --git {old} {new}\n{index}\n--- {old}{tab}\n+++ {new}{tab}\n@@ -1 +1 @@\n-a\n+b\n")

    assert (part.source, part.path) == (path, path)


@pytest.mark.parametrize(
    ("headers", "before", "sentence"),
    [
        (["new file mode 100644", "index 0000000..e69de29"], File(REGULAR, b""), "a.txt exists already."),
        (["deleted file mode 100644", "index e69de29..0000000"], None, "a.txt does not exist."),
        (["deleted file mode 100644", "index e69de29..0000000"], File(REGULAR, b"x\n"), "does not delete"),
        (["old mode 100644", "new mode 100755"], File("100755", b""), "has mode 100755, not 100644"),
        (["old mode 100644", "new mode 100755"], None, "a.txt does not exist."),
    ],
)
def test_a_file_that_is_not_as_the_patch_expects_it_is_a_conflict(headers, before, sentence):
    [part] = parse("\n".join(["diff --git a/a.txt b/a.txt", *headers]) + "\n")

    with pytest.raises(PatchConflict, match=sentence):
        part.applied_to(before)


# --- binary files -------------------------------------------------------------------------------------------


def block(kind, data):
    """A block of a binary patch, as git packs it."""
    packed = zlib.compress(data)
    pieces = [packed[at : at + 52] for at in range(0, len(packed), 52)]
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    lines = [letters[len(piece) - 1] + base64.b85encode(piece, pad=True).decode() for piece in pieces]
    return "\n".join([f"{kind} {len(data)}", *lines, "", ""])


def binary(before, after, forward, *, old=None, new=None):
    index = f"index {old or blob_id(before)}..{new or blob_id(after)} 100644"
    return f"diff --git a/b b/b\n{index}\nGIT binary patch\n{forward}{block('literal', before)}"


OLD, NEW = bytes(range(256)), bytes(range(255, -1, -1)) * 3


def test_binary_contents_are_replaced():
    assert applied(binary(OLD, NEW, block("literal", NEW)), OLD) == NEW


def test_binary_contents_are_not_replaced_where_they_are_others():
    with pytest.raises(PatchConflict):
        applied(binary(OLD, NEW, block("literal", NEW)), OLD + b"x")


# 256 old bytes become the last four of them, "new", and all of the old again: two copies around one insertion.
DELTA = bytes([0x80, 2, 0x87, 2]) + bytes([0x91, 252, 4]) + b"\3new" + bytes([0xA0, 1])
DELTA_NEW = OLD[252:] + b"new" + OLD


def test_binary_contents_can_be_told_by_what_they_share_with_the_old_ones():
    assert applied(binary(OLD, DELTA_NEW, block("delta", DELTA)), OLD) == DELTA_NEW


@pytest.mark.parametrize(
    "delta",
    [
        b"",
        DELTA[:-1],
        DELTA + b"\1x",
        b"\x81\2" + DELTA[2:],
        bytes([0x80, 2, 4, 0x91, 253, 4]),
        bytes([0x80, 2, 1, 0]),
        bytes([0x80, 2, 9]) + b"\3ne",
        bytes([0x80, 2]) + b"\xff\xff\xff\xff\x0f" + b"\xa0\1" * 9,
    ],
    ids=["nothing", "cut", "more", "other size", "beyond the end", "reserved", "short", "huge"],
)
def test_a_delta_that_leads_elsewhere_is_a_conflict(delta):
    with pytest.raises(PatchConflict):
        applied(binary(OLD, DELTA_NEW, block("delta", delta)), OLD)


def test_contents_that_are_not_what_the_patch_says_they_are_a_conflict():
    with pytest.raises(PatchConflict):
        applied(binary(OLD, NEW, block("literal", NEW), new="1" * 40), OLD)


@pytest.mark.parametrize(
    "forward",
    [
        "",
        'literal 3\nnot base85 "\n\n',
        block("literal", NEW).replace("literal 768", "literal 767"),
        block("literal", NEW).replace("literal 768", "literal 769"),
        block("literal", NEW).replace("literal 768", f"literal {MAX_BYTES + 1}"),
        block("literal", NEW).replace("literal 768", "literal"),
        "literal 3\nCxx\n\n",
        "\n",
    ],
    ids=["none", "no base85", "more", "less", "huge", "no size", "no zlib", "empty"],
)
def test_a_damaged_binary_change_is_bad(forward):
    with pytest.raises(BadPatch):
        parse(binary(OLD, NEW, forward))


def test_a_small_patch_cannot_unpack_to_more_than_it_says():
    bomb = block("literal", bytes(50_000_000)).replace("literal 50000000", "literal 10")

    with pytest.raises(BadPatch):
        parse(binary(OLD, NEW, bomb))


# --- damage -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", ["", "\n", "garbage", "From 0000\n", "--- a/x\n", MAIL.format(diff="", newline="\n")])
def test_a_patch_without_files_is_bad_in_the_contracts_words(patch):
    with pytest.raises(BadPatch, match=r"^Failed to apply patch - no file changes extracted$"):
        parse(patch)


ONE_LINE = ("@@ -1 +1 @@", "-a", "+b")


@pytest.mark.parametrize(
    "patch",
    [
        diff("@@ -1,2 +1 @@", "-a", "+b"),
        diff("@@ -1 +1,2 @@", "-a", "+b"),
        diff("@@ -1 +1 @@", "-a"),
        diff("@@ -1 +1 @@"),
        diff(*ONE_LINE, "+c"),
        diff(*ONE_LINE, " context"),
        diff(*ONE_LINE, "garbage"),
        diff("@@ -1,2 +1,2 @@", "-a", "+b", ""),
        diff("@@ -1,2 +1,2 @@", "-a", "+b", "xcontext"),
        diff("@@ -a +1 @@", "-a", "+b"),
        diff("@@ -0 +1 @@", "-a", "+b"),
        diff("@@ -1 +1 @", "-a", "+b"),
        diff(*ONE_LINE, headers=["index 1111111..2222222 160000"]),
        diff(*ONE_LINE, headers=["old mode 100644", "new mode 100777"]),
        diff(*ONE_LINE, headers=["copy from b", "copy to a.txt"]),
        diff(*ONE_LINE, headers=["something new"]),
        "diff --git a/a b/b\n" + diff(*ONE_LINE),
        "diff --git a a\nold mode 100644\nnew mode 100755\n",
        "diff --git a/b b/b\nindex 1111111..2222222 100644\nBinary files a/b and b/b differ\n",
        diff(*ONE_LINE).replace("--- a/a.txt", "--- a/b.txt"),
        diff(*ONE_LINE).replace("+++ b/a.txt", "+++ /dev/null"),
        diff(*ONE_LINE).replace("+++ b/a.txt\n", ""),
        diff(*ONE_LINE).replace("--- a/a.txt", "--- a.txt"),
        'diff --git "a/x b/x\nold mode 100644\nnew mode 100755\n',
        'diff --git "a/x" "b/x" "b/x"\nold mode 100644\nnew mode 100755\n',
        'diff --git "a/\\377" "b/\\377"\nold mode 100644\nnew mode 100755\n',
        "--- a/x\n+++ b/y\n@@ -1 +1 @@\n-a\n+b\n",
        "--- /dev/null\n+++ /dev/null\n@@ -1 +1 @@\n-a\n+b\n",
        diff(*ONE_LINE) + "--- a/x\n+++ b/x\n@@ -1 +1 @@\n",
    ],
)
def test_a_patch_is_bad_as_a_whole_when_one_line_of_it_is(patch):
    with pytest.raises(BadPatch, match=r"^Failed to apply patch - it is damaged at line \d+: "):
        parse(patch)
