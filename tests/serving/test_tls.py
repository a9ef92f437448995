"""Connections with TLS: valid ones are answered, faults are reported in one sentence, by a real server."""

from __future__ import annotations

import pytest

from cmb_models.cli import main
from cmb_models.client.connection import Tls, admin_headers, connect, endpoint
from cmb_models.client.grpc import Client
from cmb_models.errors import InputError
from cmb_models.serving.run.triton_process import running_server
from tests.support.certificates import make_certificate, make_root
from tests.support.refused import refused

pytestmark = pytest.mark.serving
VARIABLES = ("CMB_TLS_CA", "CMB_TLS_CERT", "CMB_TLS_KEY", "CMB_TLS_NAME", "CMB_ADMIN_KEY")


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """Certificates by name: two roots, a server's of the first, one for another name, a client's of each root."""
    folder = tmp_path_factory.mktemp("pki")
    root, other = make_root(folder / "root"), make_root(folder / "other")
    made = {"server": (root, None), "elsewhere": (root, "triton.example.org"), "client": (root, None), "stranger": (other, None)}
    return {"root": root, "other": other} | {name: make_certificate(folder / name, *of) for name, of in made.items()}


def arguments(server, mutual_root=None) -> list[str]:
    own = [f"--grpc-server-cert={server.cert}", f"--grpc-server-key={server.key}"]
    return own + (
        ["--grpc-use-ssl-mutual=true", f"--grpc-root-cert={mutual_root.cert}"] if mutual_root else ["--grpc-use-ssl=true"]
    )


@pytest.fixture(scope="module")
def with_tls(pki, tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("tls") / "repository", arguments=arguments(pki["server"])) as server:
        yield server.grpc_url


@pytest.fixture(scope="module")
def with_mutual_tls(pki, tmp_path_factory):
    own = arguments(pki["server"], pki["root"])
    with running_server(tmp_path_factory.mktemp("mutual") / "repository", arguments=own) as server:
        yield server.grpc_url


@pytest.fixture(scope="module")
def elsewhere(pki, tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("elsewhere") / "repository", arguments=arguments(pki["elsewhere"])) as server:
        yield server.grpc_url


def test_trusted_server_answers_by_argument_environment_and_scheme(with_tls, pki, monkeypatch):
    assert Client(with_tls, tls=Tls(pki["root"].cert)).serving() is None  # reached: nothing is deployed
    monkeypatch.setenv("CMB_TLS_CA", str(pki["root"].cert))
    assert Client(with_tls).serving() is None
    assert Client(f"grpcs://{with_tls}").serving() is None


def test_client_certificate_is_sent(with_mutual_tls, pki, monkeypatch):
    for name, file in zip(VARIABLES, (pki["root"].cert, pki["client"].cert, pki["client"].key), strict=False):
        monkeypatch.setenv(name, str(file))
    assert Client(with_mutual_tls).serving() is None


def test_server_of_another_name_answers_to_who_knows_it(elsewhere, pki, monkeypatch):
    monkeypatch.setenv("CMB_TLS_CA", str(pki["root"].cert))
    with refused("tls-refused"):
        Client(elsewhere).serving()
    monkeypatch.setenv("CMB_TLS_NAME", "triton.example.org")
    assert Client(elsewhere).serving() is None


@pytest.mark.parametrize(
    ("kind", "tls", "words"),
    [
        ("with_tls", lambda pki: None, r"does it speak TLS\?\); set CMB_TLS_CA"),
        (
            "with_tls",
            lambda pki: Tls(pki["other"].cert),
            "a certificate from the root that is trusted, got one that does not come from",
        ),
        ("with_mutual_tls", lambda pki: Tls(pki["root"].cert), r"does it ask for a client certificate\?\); set CMB_TLS_CERT"),
        (
            "with_mutual_tls",
            lambda pki: Tls(pki["root"].cert, pki["stranger"].cert, pki["stranger"].key),
            "takes this client certificate, got .*; have CMB_TLS_CERT signed",
        ),
    ],
    ids=["plaintext to TLS", "another root", "no client certificate", "a client certificate of another root"],
)
def test_connection_that_fails_says_why(request, pki, kind, tls, words):
    url = request.getfixturevalue(kind)
    with pytest.raises(InputError, match=words) as refusal:
        Client(url, tls=tls(pki)).serving()
    assert str(refusal.value).startswith(f"{url}: expected ")


def test_tls_to_a_server_without_it_and_back(served, pki, monkeypatch):
    monkeypatch.setenv("CMB_TLS_CA", str(pki["root"].cert))
    with refused("tls-refused"):
        Client(served.server.grpc_url).serving()
    assert Client(f"grpc://{served.server.grpc_url}").serving().release == 1


def test_command_tells_one_sentence(with_tls, served, pki, monkeypatch, tmp_path, capfd):
    scan = served.bundle / "golden" / "scan.nii.gz"
    monkeypatch.setenv("CMB_TLS_CA", str(pki["other"].cert))
    monkeypatch.setattr("sys.argv", ["cmb", "detect", str(scan), "--server", with_tls, "--out", str(tmp_path)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert capfd.readouterr().err.count("\n") == 1


def test_environment_that_is_half_set_is_refused(pki, tmp_path, monkeypatch):
    monkeypatch.setenv("CMB_TLS_CERT", str(pki["client"].cert))
    with refused("tls-incomplete"):
        connect("127.0.0.1:9")
    monkeypatch.setenv("CMB_TLS_CA", str(pki["root"].cert))
    with refused("tls-incomplete"):
        connect("127.0.0.1:9")
    monkeypatch.setenv("CMB_TLS_KEY", str(tmp_path / "none.pem"))
    with refused("tls-file"):
        connect("127.0.0.1:9")
    (tmp_path / "none.pem").write_text("no key")
    with refused("tls-file"):
        connect("127.0.0.1:9")


def test_address_may_say_how_it_is_reached(monkeypatch):
    assert endpoint("grpc://a:1") == ("a:1", None)
    assert endpoint("grpcs://a:1") == ("a:1", Tls())
    assert endpoint("a:1") == ("a:1", None)
    assert admin_headers() is None
    monkeypatch.setenv("CMB_ADMIN_KEY", "k")
    assert admin_headers() == {"triton-grpc-protocol-admin-key": "k"}
