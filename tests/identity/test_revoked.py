"""What was revoked stays out, whatever the broker lets in: real processes, the liar between them.

Neither of the liar's two brokers knows the list of revoked certificates.
"""

from __future__ import annotations

import time

from cryptography import x509

from edge_runtime.errors import MessageError
from edge_runtime.messages import decode_state
from edge_runtime.messages.seal import decode_sealed
from edge_runtime.process.agreement import Agreement
from tests.identity.site import FLEET, wait_for
from tests.identity.wards import SUMMARY, TOPICS, Wards


def test_revoked_certificates_of_both_sides(wards: Wards) -> None:
    liar, fleet = wards.liar, wards.fleet
    liar.withheld = {"summary"}
    oldest = liar.wait_for(TOPICS.revoked)
    assert not len(x509.load_der_x509_crl(oldest))
    old = liar.wait_for(TOPICS.certificate)
    wards.start_device()
    assert is_sealed_for(Agreement(tls=fleet.service_tls("aggregator"), fleet=FLEET), wards)

    # The aggregator gets another key and takes it up; the device hears only of the old one's end.
    liar.withheld |= {"certificate"}
    fleet.rotate("aggregator")
    wait_for(lambda: liar.of(TOPICS.revoked)[-1] != oldest, "the new list")
    listed = liar.of(TOPICS.revoked)[-1]
    wards.waits_in_log("nothing is sent until it has another")
    wait_for(lambda: liar.of(TOPICS.certificate)[-1] != old, "the new certificate")
    sent = len(liar.up)

    # A broker that plays the old one, with the older list, and once more after a restart.
    liar.withheld |= {"revoked"}
    for number in range(2):
        if number:
            wards.device.kill()
            wards.device.wait()
            wards.start_device()
        liar.say(TOPICS.revoked, oldest)
        liar.say(TOPICS.certificate, old)
        wards.waits_in_log("is not newer than the one in force", times=number + 1)
        wards.waits_in_log("certificate of 'aggregator' was revoked", times=number + 2)
    assert {decode_state(payload).status for _, payload in liar.up[sent:]} <= {"offline"}  # wills
    assert wards.waiting()
    liar.let_pass("certificate", "revoked")
    assert is_sealed_for(Agreement(tls=fleet.service_tls("aggregator"), fleet=FLEET), wards)

    # The device is revoked, and the broker delivers what it sends all the same.
    before, dropped = wards.stored(), wards.status().unauthentic
    with fleet.register() as register:
        assert register.revoke("ward-7")
        fleet.write_revocations(register, wards.authority)
    wait_for(lambda: liar.of(TOPICS.revoked)[-1] != listed, "the new list")
    liar.let_pass("summary")
    liar.say(SUMMARY, liar.of(SUMMARY)[-1])
    wait_for(lambda: wards.status().unauthentic > dropped, "messages that are dropped")
    assert wards.stored() == before
    assert wards.status().phase == "census"
    assert wards.waiting()
    # The same from the start on.
    wards.aggregator.kill()
    wait_for(lambda: wards.status().phase == "offline", "its will")
    statuses = len(liar.of(TOPICS.status))
    wards.aggregator.restart()
    wait_for(
        lambda: len(liar.of(TOPICS.status)) > statuses and wards.status().unauthentic,
        "messages that are dropped",
    )
    assert wards.stored() == before
    assert wards.waiting()
    assert "certificate of 'ward-7' was revoked" in wards.aggregator.text()
    assert "Traceback" not in wards.log.read_text() + wards.aggregator.text()


def is_sealed_for(own: Agreement, wards: Wards) -> bool:
    """Wait for a summary that the device has sealed for the holder of a key."""

    def found() -> bool:
        for payload in wards.liar.of(SUMMARY):
            sealed = decode_sealed(payload)
            agreed = own.agree(
                sealed.certificate, name="ward-7", device="ward-7", now_unix_s=time.time()
            )
            try:
                return bool(sealed.check(topic=SUMMARY, key=agreed.key))
            except MessageError:
                continue
        return False

    wait_for(found, "a summary that is sealed for this key")
    return True
