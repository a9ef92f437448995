"""The one exception: a sentence with four parts, which survives the way back from a worker process."""

import ast
import pickle

import pytest

from cmb_models.errors import CODES, InputError, from_status, to_status
from tests.support.imports import ROOT


def test_message():
    error = InputError("scan-file", "a.nii", "a scan", "a cat", "pass a scan")
    assert str(error) == "a.nii: expected a scan, got a cat; pass a scan"
    assert isinstance(error, ValueError)


def test_pickling_keeps_all_parts():
    error = pickle.loads(pickle.dumps(InputError("scan-file", "a", "b", "c", "d")))
    assert (error.code, error.case, error.expected, error.got, error.remedy) == ("scan-file", "a", "b", "c", "d")
    assert str(error) == "a: expected b, got c; d"


def test_a_status_carries_the_code_and_the_parts():
    sent = InputError("scan-geometry", "scan", 'a "3D" volume', "{1, 2}", "crop it")
    read = from_status(f"in ensemble 'x', {to_status(sent)} (more)", "sub-1.nii")
    assert read.as_dict() == sent.as_dict() | {"case": "sub-1.nii"}
    assert to_status(sent).startswith(str(sent))


@pytest.mark.parametrize("text", ["", "no such model", '{"code": ', '{"code": "x"}', '{"code": 3, "expected": "a"}'])
def test_a_status_of_another_origin_is_none(text):
    assert from_status(text, "scan") is None


def codes_in_use() -> dict[str, str]:
    """Place by code of every `InputError("code", ...)` in the product."""
    found = {}
    for folder in ("cmb_models", "serving", "pipelines", "benchmarks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("InputError", "Unreachable", "require_listed"):
                    if node.func.id == "require_listed":
                        found |= dict.fromkeys(ast.literal_eval(node.args[1]), str(file))
                        continue
                    place = f"{file.relative_to(ROOT)}:{node.lineno}"
                    if isinstance(node.args[0], ast.Constant):
                        found[node.args[0].value] = place
                    else:
                        assert ast.unparse(node.args[0]) in ("error.code", "parts['code']", "codes[0]", "codes[1]"), (
                            f"{place}: a code that is made up"
                        )
    return found


def test_every_code_is_listed_and_used():
    found = codes_in_use()
    assert not {code: place for code, place in found.items() if code not in CODES}
    assert set(CODES) == set(found)
