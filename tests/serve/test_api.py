"""The service: answers equal those of the collection; what a request has wrong is a 4xx."""

import csv
import io
import json
import os
import threading

import pytest
from PIL import Image

from pml_hashing import Collection, HashingModel

from .conftest import NUM_IMAGES, encoded, picture

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="httpx, which calls the service, is not installed")

from fastapi.testclient import TestClient

from pml_hashing.serve import create_app, writing
from pml_hashing.serve.catalog import _kept_jpeg, id_of


@pytest.fixture(scope="module")
def client(unchanged):
    return TestClient(create_app(unchanged))


@pytest.fixture
def fresh_client(collection):
    """For what changes the collection, or counts requests."""
    return TestClient(create_app(collection))


def matches_of(answer):
    return [(m["image"]["name"], m["distance"]) for m in answer.json()["matches"]]


def expected(matches):
    return [(match.name, match.distance) for match in matches]


def send(client, content, **params):
    return client.post("/api/search", files={"image": ("x.png", content)}, params=params)


def test_a_picture_finds_what_the_collection_finds(client, unchanged):
    content = encoded(picture(4))
    answer = send(client, content, k=5)
    assert answer.status_code == 200
    assert matches_of(answer) == expected(unchanged.search(content, k=5))
    assert matches_of(answer)[0] == ("hat/04.png", 0)
    told = answer.json()
    assert told["size"] == NUM_IMAGES
    assert told["search_ms"] > 0
    assert told["encode_ms"] > 0
    assert told["matches"][0]["image"]["label"] == "hat"


def test_an_image_finds_its_like_without_itself(client, unchanged):
    answer = client.get(f"/api/images/{id_of('hat/04.png')}/similar", params={"k": 4})
    assert matches_of(answer) == expected(unchanged.similar("hat/04.png", k=4))
    assert answer.json()["encode_ms"] is None


def test_radius_label_and_condition(client, unchanged):
    path = f"/api/images/{id_of('hat/00.png')}/similar"
    everything = unchanged.similar("hat/00.png", k=NUM_IMAGES)
    radius = int(everything[4].distance)
    within = [match for match in everything if match.distance <= radius]
    assert matches_of(client.get(path, params={"k": 99, "radius": radius})) == expected(within)
    shoes = expected(unchanged.similar("hat/00.png", k=99, where={"label": "shoe"}))
    for params in ({"label": "shoe"}, {"where": json.dumps({"label": ["shoe"]})}):
        assert matches_of(client.get(path, params={"k": 99, **params})) == shoes


def test_the_collection_and_its_images(client, unchanged):
    about = client.get("/api/collection").json()
    assert about["size"] == len(unchanged)
    assert about["code_length"] == 32
    assert about["labels"] == [{"value": "hat", "count": 6}, {"value": "shoe", "count": 6}]
    assert not about["writable"]
    listed = client.get("/api/images", params={"offset": 2, "limit": 3}).json()
    assert [image["name"] for image in listed["images"]] == unchanged.names[2:5]
    for image in listed["images"]:
        assert client.get(f"/api/images/{image['id']}").json() == image
        shown = client.get(f"/api/images/{image['id']}/picture", params={"size": 16})
        assert shown.headers["content-type"] == "image/jpeg"
        assert max(Image.open(io.BytesIO(shown.content)).size) == 16


def test_a_picture_is_sent_again_only_if_its_file_changed(fresh_client, photos):
    path = f"/api/images/{id_of('hat/00.png')}/picture"
    tag = fresh_client.get(path).headers["etag"]
    assert fresh_client.get(path, headers={"If-None-Match": tag}).status_code == 304
    picture(50).save(photos / "hat/00.png")
    again = fresh_client.get(path, headers={"If-None-Match": tag})
    assert again.status_code == 200
    assert again.headers["etag"] != tag


def test_large_pictures_are_not_kept(client):
    path, kept = f"/api/images/{id_of('hat/00.png')}/picture", _kept_jpeg.cache_info().currsize
    assert client.get(path, params={"size": 2048}).status_code == 200
    assert _kept_jpeg.cache_info().currsize == kept


def test_duplicates_and_their_table(client, unchanged):
    groups = unchanged.duplicates(2)
    answer = client.get("/api/duplicates", params={"radius": 2}).json()
    assert answer["num_groups"] == len(groups) > 0
    assert answer["num_images"] == sum(map(len, groups))
    names = [[image["name"] for image in group["images"]] for group in answer["groups"]]
    assert names == [group.names for group in groups]
    assert [group["keep"] for group in answer["groups"]] == [id_of(group.keep) for group in groups]
    first = client.get("/api/duplicates", params={"radius": 2, "offset": 1, "limit": 1}).json()
    assert first["groups"] == answer["groups"][1:2]
    table = client.get("/api/duplicates.csv", params={"radius": 2})
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [row["path"] for row in rows] == [name for group in groups for name in group.names]


def test_a_sync_of_another_process_is_seen(fresh_client, collection, photos, monkeypatch):
    monkeypatch.setattr("pml_hashing.serve.catalog.SECONDS_BETWEEN_LOOKS", 0.0)
    other = Collection.open(collection.folder)
    picture(77).save(photos / "hat/new.png")
    (photos / "hat/00.png").unlink()
    other.sync(progress=False)
    assert fresh_client.get("/api/health").json()["size"] == NUM_IMAGES
    assert fresh_client.get(f"/api/images/{id_of('hat/00.png')}").status_code == 404
    assert matches_of(send(fresh_client, encoded(picture(77)), k=1)) == [("hat/new.png", 0)]


@pytest.mark.parametrize("there", ["nothing", "another model's", "damaged"])
def test_a_collection_that_is_gone_is_no_fault_of_a_request(
    fresh_client, collection, monkeypatch, caplog, there
):
    monkeypatch.setattr("pml_hashing.serve.catalog.SECONDS_BETWEEN_LOOKS", -1)
    held = collection.folder.rename(collection.folder.with_suffix(".held"))
    if there == "another model's":
        other = HashingModel("test_resnet", 32, img_size=32)
        Collection.create(collection.folder, other).sync(collection.images, progress=False)
    elif there == "damaged":
        collection.folder.mkdir()
        (collection.folder / "collection.json").write_text("{")
    for path in ("/api/health", "/api/images", f"/api/images/{id_of('hat/00.png')}/similar"):
        answer = fresh_client.get(path)
        assert answer.status_code == 503
        assert answer.json()["detail"].startswith("Expected the collection that is served")
        assert str(collection.folder) not in answer.text  # it is for the log
    assert str(collection.folder) in caplog.text
    if there == "nothing":
        held.rename(collection.folder)
        assert fresh_client.get("/api/health").json()["size"] == NUM_IMAGES


def test_what_is_removed_while_it_is_told_is_left_out(
    fresh_client, collection, photos, monkeypatch
):
    names, groups = collection.names, collection.duplicates(2)
    monkeypatch.setattr(collection, "names_from", lambda *_: names)
    monkeypatch.setattr("pml_hashing.serve.catalog.Catalog.duplicates", lambda *_: groups)
    (gone, *kept), *_ = (group.names for group in groups)
    (photos / gone).unlink()
    collection.sync(progress=False)
    listed = fresh_client.get("/api/images").json()["images"]
    assert [image["name"] for image in listed] == [name for name in names if name != gone]
    first = fresh_client.get("/api/duplicates", params={"radius": 2}).json()["groups"][0]
    assert [image["name"] for image in first["images"]] == kept


def test_searching_while_a_sync_runs_gives_one_state(fresh_client, collection, photos):
    content, answers, failed = encoded(picture(4)), [], []

    def search():
        for _ in range(10):
            answer = send(fresh_client, content, k=99)
            (answers if answer.status_code == 200 else failed).append(answer)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3):
        picture(200 + number).save(photos / f"hat/new{number}.png")
        collection.sync(progress=False)
    for thread in threads:
        thread.join()
    assert not failed
    assert {len(matches_of(answer)) for answer in answers} <= set(range(12, 16))
    assert all(matches_of(answer)[0] == ("hat/04.png", 0) for answer in answers)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 415),
        (b"no picture", 415),
        (encoded(picture(0))[:60], 415),
        (b"GIF89a" + b"\xff\xff" * 2 + b"\x00" * 10, 415),
        (encoded(Image.new("1", (20000, 20000))), 415),  # 400 million pixels in 50 kilobytes
    ],
    ids=["empty", "text", "cut", "header", "bomb"],
)
def test_what_is_no_picture_is_refused(client, content, status):
    answer = send(client, content)
    assert answer.status_code == status
    assert "Expected" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/api/search", "/api/images?name=new.png"])
def test_one_picture_alone_is_sent(collection, photos, path):
    writable = TestClient(create_app(collection, writable=True))
    held = sorted(photos.rglob("*"))
    parts = [("image", ("a.png", encoded(picture(1)))), ("image", ("b.png", encoded(picture(2))))]
    answer = writable.post(path, files=parts)
    assert answer.status_code == 422
    assert answer.json()["detail"] == "Expected each parameter once, got 'image' more often."
    answer = writable.post(path, files=parts[:1], data={"k": "5"})
    assert answer.status_code == 422
    assert "a form of `image` alone, got 'k': all else goes" in answer.json()["detail"]
    assert sorted(photos.rglob("*")) == held


def test_nothing_is_said_twice(client):
    path = f"/api/images/{id_of('hat/00.png')}/similar"
    answer = client.get(path, params={"label": ["hat", "shoe"], "k": 3})
    assert (answer.status_code, "'label'" in answer.json()["detail"]) == (422, True)


@pytest.mark.parametrize(
    "params",
    [
        {"k": 0},
        {"k": 100_000},
        {"k": "many"},
        {"radius": -1},
        {"where": "{"},
        {"where": "[1]"},
        {"where": '{"label": {"a": 1}}'},
        {"where": '{"nothing": "shoe"}'},
        {"where": '{"label": 3}'},
        {"where": "[" * 20000},
        {"where": '{"label": ' + "9" * 400 + "}"},
    ],
    ids=str,
)
def test_bad_numbers_and_conditions_are_refused(client, params):
    path = f"/api/images/{id_of('hat/00.png')}/similar"
    answer = client.get(path, params=params)
    assert answer.status_code == 422


def test_a_label_that_is_no_text_finds_nothing(client):
    path = f"/api/images/{id_of('hat/00.png')}/similar"
    answer = client.get(path, params={"where": '{"label": "\\ud800"}'})
    assert answer.json()["matches"] == []


@pytest.mark.parametrize(
    "image_id",
    [
        "x",
        id_of("../secret.png"),
        id_of("hat/../../secret.png"),
        id_of("/etc/passwd"),
        id_of("hat/99.png"),
        id_of("hat/00.png") + "==",
        "..%2F..%2Fsecret.png",
        "%00",
        "é",
    ],
)
def test_nothing_outside_the_collection_has_an_address(client, tmp_path, image_id):
    for path in (f"/api/images/{image_id}", f"/api/images/{image_id}/picture"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", ["/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd"])
def test_no_other_file_is_served(client, path):
    assert client.get(path).status_code == 404


def test_a_link_that_leads_out_later_shows_nothing(fresh_client, photos, tmp_path):
    path = photos / "hat/00.png"
    path.unlink()
    answers = [fresh_client.get(f"/api/images/{id_of('hat/00.png')}/picture")]
    path.symlink_to(tmp_path / "secret.png")
    answers.append(fresh_client.get(f"/api/images/{id_of('hat/00.png')}/picture"))
    assert [answer.status_code for answer in answers] == [404, 404]
    states = [answer.json()["detail"].rpartition("which ")[2] for answer in answers]
    assert states == ["is gone.", "cannot be read."]


def test_a_request_has_a_size(collection):
    client = TestClient(create_app(collection, max_upload_bytes=10_000))
    assert send(client, b"x" * 20_000).status_code == 413

    def chunks():  # without a header that tells the size
        yield b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(20):
            yield b"x" * 1000
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert client.post("/api/search", content=chunks(), headers=headers).status_code == 413


def test_what_is_there_is_told_without_its_content(client):
    picture = f"/api/images/{id_of('hat/00.png')}/picture"
    for address in ("/", "/api/health", "/metrics", "/openapi.json", "/page/page.js", picture):
        head, answer = client.head(address), client.get(address)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == answer.headers["content-type"]
    assert client.head("/api/images/none").status_code == 404
    assert client.head("/api/search").status_code == 405


def test_nothing_is_written_unless_asked_for(fresh_client, photos):
    before = sorted(photos.rglob("*"))
    answer = fresh_client.post("/api/images", params={"name": "a.png"}, files={"image": b"x"})
    assert answer.status_code == 405
    assert fresh_client.delete(f"/api/images/{id_of('hat/00.png')}").status_code == 405
    assert sorted(photos.rglob("*")) == before


def test_images_are_added_and_removed_where_allowed(collection, photos):
    client = TestClient(create_app(collection, writable=True))
    content = encoded(picture(70))
    form = {"params": {"name": "hat/new.png"}, "files": {"image": content}}
    added = client.post("/api/images", **form)
    assert added.status_code == 201
    assert added.json()["label"] == "hat"
    assert (photos / "hat/new.png").read_bytes() == content
    assert matches_of(send(client, content, k=1)) == [("hat/new.png", 0)]
    assert client.post("/api/images", **form).status_code == 409
    assert client.delete(f"/api/images/{added.json()['id']}").status_code == 204
    assert not (photos / "hat/new.png").exists()
    assert "hat/new.png" not in collection


@pytest.mark.parametrize(
    "name",
    [
        "", "../a.png", "/a.png", "hat/../../a.png", ".a.png", "a.txt", "a\\b.png", "a\x00.png",
        "a/", "é" * 150 + ".png", "é" * 150 + "/a.png",
    ],
)  # fmt: skip
def test_no_file_is_added_elsewhere(collection, photos, tmp_path, name):
    client = TestClient(create_app(collection, writable=True))
    before = sorted(tmp_path.rglob("*"))
    files = {"image": encoded(picture(70))}
    assert client.post("/api/images", params={"name": name}, files=files).status_code == 422
    assert sorted(tmp_path.rglob("*")) == before


def test_no_file_is_added_in_the_place_of_another(collection, photos):
    client = TestClient(create_app(collection, writable=True))
    before = (photos / "hat/00.png").read_bytes()
    files = {"image": encoded(picture(70))}
    answer = client.post("/api/images", params={"name": "hat/00.png"}, files=files)
    assert answer.status_code == 409
    assert answer.json() == {"detail": "Expected `name` of no file yet, got 'hat/00.png'."}
    assert (photos / "hat/00.png").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("é" * 150 + ".png", 422),
        ("new/" + "é" * 150 + ".png", 422),
        ("hat/00.png/a.png", 409),
        ("hat/00.png/a/b.png", 409),
    ],
)
def test_what_a_file_system_refuses_is_told(collection, photos, name, status):
    client = TestClient(create_app(collection, writable=True), raise_server_exceptions=False)
    before = sorted(photos.rglob("*"))
    files = {"image": encoded(picture(70))}
    answer = client.post("/api/images", params={"name": name}, files=files)
    assert answer.status_code == status
    assert "Expected" in answer.json()["detail"]
    assert str(photos) not in answer.json()["detail"]
    assert sorted(photos.rglob("*")) == before


@pytest.mark.parametrize("name", ["new.png", "new/folder/new.png"])
def test_a_picture_that_is_refused_leaves_no_file(collection, photos, monkeypatch, name):
    client = TestClient(create_app(collection, writable=True))
    before = sorted(photos.rglob("*"))
    form = {"params": {"name": name}, "files": {"image": encoded(picture(70))}}

    def is_locked(*_, **__):
        raise TimeoutError("Expected the collection free to write, got another process.")

    with monkeypatch.context() as patch:
        patch.setattr(Collection, "sync", is_locked)
        assert client.post("/api/images", **form).status_code == 503
    assert sorted(photos.rglob("*")) == before
    assert client.post("/api/images", **form).status_code == 201  # tried again


def test_two_pictures_of_one_name_do_not_replace_each_other(collection, photos, monkeypatch):
    client = TestClient(create_app(collection, writable=True))
    write, answers = writing.write_atomically, []

    def write_late(path, write_content):
        if not answers:  # another request comes before this one has written
            answers.append(None)
            answers.append(send_new(71).status_code)
        write(path, write_content)

    def send_new(seed):
        form = {"params": {"name": "new.png"}, "files": {"image": encoded(picture(seed))}}
        return client.post("/api/images", **form)

    monkeypatch.setattr(writing, "write_atomically", write_late)
    answers.append(send_new(70).status_code)
    assert answers[1:] == [409, 201]
    assert (photos / "new.png").read_bytes() == encoded(picture(70))


def test_no_file_is_added_through_a_link(collection, photos, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (photos / "out").symlink_to(tmp_path / "elsewhere")
    client = TestClient(create_app(collection, writable=True))
    files = {"image": encoded(picture(70))}
    answer = client.post("/api/images", params={"name": "out/a.png"}, files=files)
    assert answer.status_code == 422
    assert not any((tmp_path / "elsewhere").iterdir())


def test_another_site_changes_nothing(collection, photos):
    client = TestClient(create_app(collection, writable=True, allowed_hosts=["testserver"]))
    elsewhere = {"Origin": "http://elsewhere.example"}
    path = f"/api/images/{id_of('hat/00.png')}"
    assert client.delete(path, headers=elsewhere).status_code == 403
    assert client.get(path, headers={"Host": "elsewhere.example"}).status_code == 400
    assert client.delete(path, headers={"Origin": "http://testserver"}).status_code == 204


def test_names_that_are_no_text_are_served(photos, model, tmp_path):
    raw = os.fsencode(photos) + b"/hat/\xff.png"
    try:
        with open(raw, "wb") as file:  # noqa: PTH123 - no path has such a name
            file.write(encoded(picture(70)))
    except OSError:
        pytest.skip("the file system takes text only")
    collection = Collection.create(tmp_path / "raw.codes", model)
    collection.sync(photos, progress=False)
    client = TestClient(create_app(collection))
    ((name, distance),) = matches_of(send(client, encoded(picture(70)), k=1))
    assert (name, distance) == ("hat/\ufffd.png", 0)
    (image_id,) = (id_of(each) for each in collection.names if not each.isprintable())
    assert client.get(f"/api/images/{image_id}/picture").status_code == 200


def test_every_answer_keeps_a_browser_at_home(client):
    for path in ("/", "/page/page.js", "/api/health", "/nothing"):
        headers = client.get(path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"


def test_the_page_asks_nobody_else(client):
    for path in ("/", "/page/page.js", "/page/page.css"):
        text = client.get(path).text
        assert "http://" not in text
        assert "https://" not in text


def test_metrics_count_by_route(fresh_client):
    fresh_client.get(f"/api/images/{id_of('hat/00.png')}/similar")
    fresh_client.get("/nothing/at/all")
    text = fresh_client.get("/metrics").text
    assert 'route="/api/images/{image_id}/similar",status="200"' in text
    assert 'route="other",status="404"' in text
    assert "pml_hashing_search_seconds_count 1.0" in text


def test_wrong_methods_and_paths(client):
    assert client.put("/api/search").status_code == 405
    assert client.get("/api/search").status_code == 405
    assert client.get("/api").status_code == 404


def test_the_description_names_every_route(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/api/search", "/api/images/{image_id}/similar", "/api/duplicates"} <= set(paths)
    assert "/api/images" in paths
    assert "post" not in paths["/api/images"]
