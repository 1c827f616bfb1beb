"""Signatures as Standard Webhooks has them."""

from __future__ import annotations

from worker.engine.signing import secrets_for, signatures

# Of the specification's own example.
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MESSAGE = ("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
OTHER = "whsec_" + "A" * 32


def test_a_signature_is_the_specification_s() -> None:
    assert signatures([SECRET], *MESSAGE) == SIGNATURE


def test_while_secrets_are_exchanged_there_is_one_signature_of_each() -> None:
    new, old = signatures(secrets_for(f"{OTHER} {SECRET}", None), *MESSAGE).split(" ")

    assert old == SIGNATURE
    assert new != SIGNATURE


def test_a_service_has_secrets_of_its_own() -> None:
    shop, mail = (secrets_for(f"{SECRET} {OTHER}", service) for service in ("shop", "mail"))

    assert len({*shop, *mail, SECRET, OTHER}) == 6
    assert secrets_for(SECRET, "shop") == shop[:1]
    assert signatures(shop, *MESSAGE).count("v1,") == 2
