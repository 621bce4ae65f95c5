"""What is counted of pictures that posts name."""

from hashtag_core.data.dataset import HostPictures
from hashtag_core.preparation.fetch_images import SHOWN, SHOWN_HOSTS, PictureTally


def test_pictures_are_counted_by_host_and_parts_add_up() -> None:
    tally, other = PictureTally(), PictureTally()
    for uri, why in [
        ("https://CDN.example.org/1.jpg", None),
        (" https://cdn.example.org/2.jpg", "gone"),
        ("http://example.org:8080/a", "gone"),
        ("https://user:secret@example.org/a", None),
        ("https://[::1/a", "no address"),
        ("img/1.jpg", "not there"),
        ("s3://bucket/1.jpg", None),
    ]:
        tally.count(uri, why)
    other.count("https://cdn.example.org/3.jpg", None)
    other.add(PictureTally.of_json(tally.to_json()))
    assert other.most_used() == {
        "cdn.example.org": HostPictures(had=2, missing=1),
        "example.org:8080": HostPictures(had=0, missing=1),
        "example.org": HostPictures(had=1, missing=0),
        "no host": HostPictures(had=0, missing=1),
    }
    assert len(tally.missing) == len(other.missing) == SHOWN
    assert PictureTally.of_json(b"{}") == PictureTally()


def test_hosts_of_strangers_do_not_fill_a_summary() -> None:
    tally = PictureTally()
    for n in range(10 * SHOWN_HOSTS):
        tally.count(f"https://h{n}.example.org/1.jpg", None)
    for _ in range(3):
        tally.count("https://cdn.example.org/1.jpg", "gone")
    told = tally.most_used()
    assert len(told) == SHOWN_HOSTS + 1
    assert told["cdn.example.org"] == HostPictures(had=0, missing=3)
    assert sum(counts.had for counts in told.values()) == 10 * SHOWN_HOSTS
