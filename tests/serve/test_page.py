"""The page in a real browser. Skipped where there is none."""

import shutil

import pytest

from .conftest import encoded, picture

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no browser", allow_module_level=True)

NAME_OF = "e => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText || ''"
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 800}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=[WIDE, PHONE], ids=["wide", "phone"])
def page(request, browser, address):
    context = browser.new_context(viewport=request.param)
    page = context.new_page()
    page.wrong = []
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on("console", lambda message: page.wrong.append(message.text))
    page.on("requestfailed", lambda asked: page.wrong.append(asked.url))
    page.on(
        "request",
        lambda asked: None if is_home(asked.url, address) else page.wrong.append(asked.url),
    )
    page.goto(address)
    page.locator(".picture").first.wait_for()
    yield page
    assert page.wrong == []
    assert page.evaluate("document.documentElement.scrollWidth") <= request.param["width"]
    context.close()


def is_home(url, address):
    return url.startswith((address, "blob:", "data:"))


def names_shown(page):
    return page.locator(".picture > span:first-of-type").all_inner_texts()


def upload(page, seed, name="query.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": encoded(picture(seed))}
    page.set_input_files("#file", file)


def test_a_chosen_picture_finds_its_like(page, unchanged):
    upload(page, 4)
    page.get_by_text("found in").wait_for()
    found = [match.name for match in unchanged.search(encoded(picture(4)), k=24)]
    assert names_shown(page) == found
    assert "among 12 images" in page.locator("#status").inner_text()
    assert page.locator("#preview").is_visible()


def test_a_result_is_searched_by_and_back_goes_back(page, unchanged):
    page.locator(".picture").nth(1).click()
    page.get_by_text("found in").wait_for()
    name = unchanged.names[1]
    assert names_shown(page) == [match.name for match in unchanged.similar(name, k=24)]
    page.go_back()
    page.get_by_text("press one of these").wait_for()
    page.go_forward()
    page.get_by_text("found in").wait_for()
    assert names_shown(page) == [match.name for match in unchanged.similar(name, k=24)]


def test_label_and_radius_narrow_the_results(page, unchanged):
    upload(page, 4)
    page.get_by_text("found in").wait_for()
    page.select_option("#label", "shoe")
    page.get_by_text("6 pictures found").wait_for()
    assert {name.split("/")[0] for name in names_shown(page)} == {"shoe"}
    page.select_option("#label", "")
    page.locator("#radius").focus()
    page.keyboard.press("Home")
    page.get_by_text("1 picture found").wait_for()
    assert names_shown(page) == ["hat/04.png"]


def test_duplicates_are_shown_in_groups(page, unchanged):
    page.get_by_role("button", name="Duplicates").click()
    page.get_by_text("look alike").wait_for()
    groups = unchanged.duplicates(int(page.locator("#alike").input_value()))
    assert page.locator("h2").count() == len(groups)
    assert names_shown(page) == [name for group in groups for name in group.names]
    with page.expect_download() as download:
        page.get_by_text("Download as CSV").click()
    assert download.value.suggested_filename == "duplicates.csv"


def test_a_file_that_is_no_picture_is_explained(page):
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "text/plain", "buffer": b"no"})
    page.get_by_role("alert").get_by_text("Expected a readable image").wait_for()
    page.wrong = [text for text in page.wrong if "415" not in text and "blob:" not in text]


def test_keys_are_enough(page, unchanged):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className").startswith("picture"):
            break
    page.keyboard.press("Enter")
    page.get_by_text("found in").wait_for()
    assert names_shown(page) == [m.name for m in unchanged.similar(unchanged.names[0], k=24)]


def test_every_control_has_a_name(page):
    for role in ("button", "combobox", "slider", "link"):
        for control in page.get_by_role(role).all():
            assert control.evaluate(NAME_OF).strip(), control.evaluate("e => e.outerHTML")
