"""The files of an encrypted link, and what is said when they are wrong."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from edge_runtime.aggregator.config import load_config as load_aggregator_config
from edge_runtime.device.config import load_config as load_device_config
from edge_runtime.errors import ConfigError
from edge_runtime.fleet.authority import Authority
from edge_runtime.messages import Link, TlsFiles
from edge_runtime.process.tls import handshake_problem, refusal_problem, refusal_reason
from tests.identity.site import make_identity, wait_for


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    authority = Authority.create(
        fleet="f", certificate_path=tmp_path / "ca.pem", key_path=tmp_path / "ca.key"
    )
    return make_identity(authority, tmp_path / "identity", "a")[0]


def test_a_context_checks_the_broker_and_old_versions_are_refused(files: TlsFiles) -> None:
    context = files.context()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    # Not the system's authorities: the fleet's own and no other.
    assert [entry["subject"] for entry in context.get_ca_certs()] == [
        ((("commonName", "edge-runtime fleet f"),),)
    ]


def test_what_is_wrong_with_the_files_is_said(files: TlsFiles, tmp_path: Path) -> None:
    def wrong(words: str, **changed: Path) -> None:
        names = ("ca", "certificate", "key")
        paths = {name: getattr(files, name) for name in names} | changed
        with pytest.raises(ConfigError, match=words):
            TlsFiles(**paths).context()

    junk = tmp_path / "junk"
    junk.write_text("no PEM")
    for name in ("ca", "certificate", "key"):
        wrong(rf"broker\.tls\.{name} .* cannot be read \(No such file", **{name: tmp_path / "none"})
    wrong(r"broker\.tls\.ca .* holds no certificate", ca=junk)
    wrong("cannot be used together", certificate=junk)
    other = make_identity(
        Authority.load(certificate_path=tmp_path / "ca.pem", key_path=tmp_path / "ca.key"),
        tmp_path / "other", "b",
    )[0]  # fmt: skip
    assert other.key is not None
    wrong("cannot be used together", key=other.key)
    other.key.chmod(0o640)
    wrong("mode 0640: other users can get at it; chmod 600", key=other.key)
    with pytest.raises(ValueError, match="go together"):
        TlsFiles(ca=files.ca, key=files.key)


def test_a_link_waits_for_its_files(files: TlsFiles) -> None:
    text = files.ca.read_text()
    files.ca.unlink()
    link = Link(
        host="127.0.0.1", port=1, client_id="x", tls=files, retry_min_s=0.01, retry_max_s=0.02
    )
    with link:
        wait_for(lambda: "cannot be read" in link.problem)
        files.ca.write_text(text)
        wait_for(lambda: "no broker answers" in link.problem)


def test_a_certificate_that_has_expired_or_not_begun_names_the_clock() -> None:
    for code, words in ((9, "is not valid yet"), (10, "has expired")):
        error = ssl.SSLCertVerificationError()
        error.verify_code, error.verify_message = code, ""
        assert f"{words} by this machine's clock, which says 20" in handshake_problem(error, "b:1")


def test_alerts_are_put_into_words() -> None:
    alert = "failed to receive on socket: [SSL: SSLV3_ALERT_CERTIFICATE_REVOKED] sslv3 alert"
    assert "was revoked" in refusal_problem(refusal_reason(alert), "b:1")
    assert refusal_reason("[Errno 104] Connection reset by peer") == ""
    assert "most often because of a certificate" in refusal_problem("", "b:1")


def test_both_configurations_take_the_section(files: TlsFiles, tmp_path: Path) -> None:
    tls = '[broker.tls]\nca = "identity/ca.pem"\ncertificate = "identity/certificate.pem"\n'
    key = 'key = "identity/key.pem"\n'
    device = '[device]\nid = "a"\nfleet = "f"\nstate_dir = "s"\n[source]\npath = "x"\n'
    aggregator = '[fleet]\nname = "f"\n[data]\ndir = "d"\n[schema]\npath = "s"\n'
    path = tmp_path / "c.toml"
    loads = {device: load_device_config, aggregator: load_aggregator_config}
    for sections, load in loads.items():
        start = f"{sections}[privacy]\nepsilon = 1.0\n"
        path.write_text(start + tls + key)
        found = load(path).broker.tls
        assert found is not None
        assert (found.ca, found.certificate, found.key) == (files.ca, files.certificate, files.key)
        path.write_text(start)
        assert load(path).broker.tls is None
        for wrong, words in (
            (tls, r"broker\.tls: certificate and key go together"),
            (tls + key + "cipher = 1\n", r"broker\.tls\.cipher is no setting"),
            (tls + "key = 7\n", r"broker\.tls\.key: expected a path"),
        ):
            path.write_text(start + wrong)
            with pytest.raises(ConfigError, match=words):
                load(path)
    # The list of revoked certificates: a device is handed it by the aggregator.
    revoked = f"[privacy]\nepsilon = 1.0\n{tls}{key}revoked = 'identity/crl.pem'\n"
    path.write_text(aggregator + revoked)
    found = load_aggregator_config(path).broker.tls
    assert found is not None
    assert found.revoked == files.ca.with_name("crl.pem")
    path.write_text(device + revoked)
    with pytest.raises(ConfigError, match=r"broker\.tls\.revoked is no setting"):
        load_device_config(path)
