import json
import os
import subprocess
import sys

import pytest

from wsssjax.core import files


def test_atomic_keeps_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), files.atomic(path, "w") as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_sweep_removes_only_what_a_killed_writer_left(tmp_path):
    deep = tmp_path / "step" / "sub"
    deep.mkdir(parents=True)
    (deep / ".x.png.123.wsssjax-tmp").write_text("half")
    (deep / "x.png").write_text("whole")
    files.sweep(tmp_path)
    assert os.listdir(deep) == ["x.png"]


def test_sweep_leaves_what_others_are_writing(tmp_path):
    """A living process of this host; another host's file while it is young."""
    code = ("import sys, time; from wsssjax.core import files\n"
            "with files.atomic(sys.argv[1], 'w') as file:\n"
            "    file.write('half'); file.flush(); print('writing', flush=True)\n"
            "    sys.stdin.readline()\n")
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "x.txt"], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == "writing\n"
        files.sweep(tmp_path)
        files.claim(tmp_path / "made.json", {"a": 1})
        writer.communicate("go on\n")
    assert writer.returncode == 0 and (tmp_path / "x.txt").read_text() == "half"
    young, old = (tmp_path / f".{n}.png.0a0a0a0a-1.wsssjax-tmp" for n in "yo")
    young.write_text("half")
    old.write_text("half")
    os.utime(old, (1e9, 1e9))
    files.sweep(tmp_path)
    assert young.exists() and not old.exists()


def test_claim_refuses_a_folder_made_with_something_else(tmp_path):
    path = tmp_path / "new" / "made.json"
    files.claim(path, {"weights": "abc", "scales": [1.0]})
    files.claim(path, {"weights": "ab", "scales": [1.0]})  # nothing was made with the other yet
    (path.parent / "a.png").write_text("made")
    files.claim(path, {"weights": "ab", "scales": [1.0]})
    with pytest.raises(ValueError, match="made with another scales .*give another --out"):
        files.claim(path, {"weights": "ab", "scales": [2.0]})
    assert files.read_json(path)["scales"] == [1.0]
    path.write_text("[]")
    with pytest.raises(ValueError, match="made.json: no note"):
        files.claim(path, {"weights": "ab"})


def test_write_json_does_not_depend_on_key_order(tmp_path):
    files.write_json(tmp_path / "a", {"b": 1, "a": [1.5, None]})
    files.write_json(tmp_path / "b", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.read_json(tmp_path / "a") == {"a": [1.5, None], "b": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1,", b"[" * 100_000])
def test_read_json_names_a_broken_file(tmp_path, content):
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="broken.json: not valid JSON"):
        files.read_json(path)


@pytest.mark.parametrize(("content", "says"), [
    (b"", "holds no id"),
    (b"a\nb\na\n", "line 3: id 'a' stands twice"),
    (b"a b\n", "line 1: 'a b' is no id"),
    (b"../../etc/passwd\n", "is no id"),
    (b"\xff\xd8\xff", "not a text file"),
])
def test_read_ids_names_file_and_line(tmp_path, content, says):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        files.read_ids(path)


def test_read_ids_keeps_order_and_drops_blank_lines(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("b\n\n a \nc")
    assert files.read_ids(path) == ["b", "a", "c"]


def test_photo_paths_of_a_folder_and_of_a_list(tmp_path):
    for name in ("b.jpg", "a.PNG", "note.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list(files.photo_paths(tmp_path)) == ["a", "b"]
    (tmp_path / "list").write_text("b.jpg b.png\n")
    assert files.photo_paths(tmp_path / "list") == {"b": tmp_path / "b.jpg"}
    (tmp_path / "list").write_text("gone.jpg\n")
    with pytest.raises(FileNotFoundError, match="gone.jpg: no such photo"):
        files.photo_paths(tmp_path / "list")
    (tmp_path / "b.png").write_bytes(b"x")
    with pytest.raises(ValueError, match="the id 'b' is taken"):
        files.photo_paths(tmp_path)


def test_missing_ids_are_named_and_counted():
    files.need_ids("ab", {"a": 1, "b": 2}, "here", "")
    with pytest.raises(ValueError, match=r"^--tags=x: has nothing for 'b' \(2 of 3 ids missing\); "
                                         r"add them$"):
        files.need_ids("abc", {"a"}, "--tags=x", "add them")


def test_hashes_see_order_of_ids_but_not_of_keys():
    assert files.hash_ids(["a", "b"]) != files.hash_ids(["b", "a"])
    assert files.hash_value({"a": 1, "b": 2}) == files.hash_value(json.loads('{"b":2,"a":1}'))
