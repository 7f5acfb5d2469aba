"""The page of `vidsr compare` in a real browser: wipe, zoom, playback in step, difference, keys, labels, no request."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

import vidsr
from tests.support import media
from tests.support.chromium import Browser, chromium

COUNT, WIDTH, HEIGHT = 12, 256, 192
LONG = "a_name_without_a_space_" * 5
Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos with numbered frames: small, large, and large with the colors inverted."""
    folder = tmp_path_factory.mktemp("page")
    small = media.clip(folder / "small.mp4", COUNT)
    large = media.clip(folder / "large.mp4", COUNT, WIDTH, HEIGHT)
    images = [255 - media.numbered_image(number, WIDTH, HEIGHT) for number in range(COUNT)]
    other = media.encode(folder / "other.mp4", images, media.X264)
    target = folder / "page.html"
    vidsr.compare(small, large, other, html=target, labels=["small", "large <b>&amp;", LONG], faces=False)
    return target


@pytest.fixture
def opened(browser: Browser, page: Path) -> Browser:
    browser.open(page)
    browser.wait("document.getElementById('stage').dataset.drawn > 0")
    return browser


def canvas(browser: Browser, side: str) -> Array:
    """The pixels of a canvas, H x W x 3."""
    text = browser.run(
        "const canvas = document.getElementById('canvas-' + arguments[0]);"
        "const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
        "let text = ''; for (const byte of bytes) text += String.fromCharCode(byte); return btoa(text)",
        side,
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(HEIGHT, WIDTH, 4)[..., :3]


def data(browser: Browser, name: str) -> str:
    return str(browser.run("return document.getElementById('stage').dataset[arguments[0]]", name))


def press(browser: Browser, keys: str) -> None:
    browser.driver.find_element("css selector", "body").send_keys(keys)


def numbers(browser: Browser) -> tuple[int, int]:
    return media.read_number(canvas(browser, "left")), media.read_number(canvas(browser, "right"))


def wait_for_frame(browser: Browser, number: int) -> None:
    browser.wait(lambda: data(browser, "frame") == str(number))


def test_the_page_works_without_any_request(opened: Browser, page: Path) -> None:
    press(opened, ".")
    wait_for_frame(opened, 1)
    addresses = opened.requests()
    assert page.as_uri() in addresses
    assert {address.partition(":")[0] for address in addresses} <= {"file", "data", "blob"}
    assert [address for address in addresses if address.startswith("file:")] == [page.as_uri()]
    assert opened.complaints() == []
    # The policy, not only the script, forbids requests.
    opened.run("fetch('https://example.com/').catch(() => {}); new Image().src = 'https://example.com/a.png'")
    opened.wait("violations.length > 1")
    assert not [address for address in opened.requests() if "example.com" in address]
    assert {line.split()[0] for line in opened.complaints() if " https://example.com" in line} >= {
        "connect-src",
        "img-src",
    }


def test_frames_are_in_step_after_single_steps(opened: Browser) -> None:
    assert numbers(opened) == (0, 0)
    for key, number in ((".", 1), (".", 2), (",", 1), (",", 0), (",", COUNT - 1), (".", 0)):
        press(opened, key)
        wait_for_frame(opened, number)
        assert numbers(opened) == (number, number)
    opened.run("const slider = document.getElementById('frame'); slider.value = 7;"
               "slider.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
    wait_for_frame(opened, 7)
    assert numbers(opened) == (7, 7)
    slider = opened.driver.find_element("id", "frame")
    assert slider.get_attribute("aria-valuetext") == "frame 8 of 12, 0.28 s"


def record(browser: Browser) -> None:
    """Reads both canvases directly after every drawing, before anything else can happen."""
    browser.run("""
        window.seen = [];
        const stage = document.getElementById("stage");
        const read = (name) => {
          const canvas = document.getElementById("canvas-" + name), context = canvas.getContext("2d");
          let number = 0;
          for (let bit = 0; bit < 8; bit++) {
            const x = (bit % 4 + 0.5) * canvas.width / 4, y = ((bit >> 2) + 0.5) * canvas.height / 4;
            number |= (context.getImageData(x, y, 1, 1).data[1] > 127) << bit;
          }
          return number;
        };
        new MutationObserver(() => window.seen.push([read("left"), read("right"), Number(stage.dataset.frame)]))
          .observe(stage, { attributeFilter: ["data-drawn"] });
    """)


@pytest.mark.parametrize("is_stalled", [False, True], ids=["flowing", "stalled"])
def test_frames_are_in_step_while_they_play(opened: Browser, is_stalled: bool) -> None:
    """Also where the clips do not play by themselves: then the page jumps from frame to frame."""
    if is_stalled:
        opened.run("HTMLVideoElement.prototype.play = () => Promise.resolve()")
    record(opened)
    press(opened, " ")
    opened.wait(
        "seen.length >= 24 && new Set(seen.map((each) => each[2])).size > 6 &&"
        " seen.some((each, index) => index && each[2] < seen[index - 1][2])"
    )
    press(opened, " ")
    assert data(opened, "playing") == "false"
    seen = opened.run("return seen")
    assert all(left == right == frame for left, right, frame in seen)
    shown = [frame for _, _, frame in seen]
    assert any(later < earlier for earlier, later in pairwise(shown)), "the clip plays again"
    assert opened.complaints() == []


def test_the_wipe_shows_each_side_on_its_side(opened: Browser) -> None:
    opened.run("document.querySelector('#right').value = '2';"
               "document.querySelector('#right').dispatchEvent(new Event('change'))")  # fmt: skip
    opened.wait(lambda: canvas(opened, "right").mean() > canvas(opened, "left").mean() + 20)
    left, right = canvas(opened, "left"), canvas(opened, "right")
    slider = opened.driver.find_element("id", "wipe")
    for share in (50.0, 20.0, 80.0):
        opened.run("arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", slider, share)
        seen = on_stage(opened)
        edge = seen.shape[1] * share / 100
        for column in range(WIDTH // 16, WIDTH, WIDTH // 8):
            x = round((column + 0.5) * seen.shape[1] / WIDTH)
            if abs(x - edge) > 25:  # beside the line and its handle
                rows = [round((row + 0.5) * seen.shape[0] / HEIGHT) for row in range(8, HEIGHT - 60, 16)]
                expected = (left if x < edge else right)[8 : HEIGHT - 60 : 16, column]
                assert np.abs(seen[rows, x].astype(int) - expected).mean() < 12, (share, column)
    # By the keyboard, too.
    opened.run("arguments[0].value = 50; arguments[0].focus()", slider)
    slider.send_keys(Keys.ARROW_RIGHT * 3)
    assert float(str(slider.get_attribute("value"))) == pytest.approx(50.3)
    assert slider.get_attribute("aria-valuetext") == "50 % left"
    slider.send_keys(Keys.HOME)
    assert slider.get_attribute("aria-valuetext") == "0 % left"
    assert np.abs(on_stage(opened)[60, 200].astype(int) - right[round(60 * HEIGHT / on_stage(opened).shape[0])]
                  [round(200 * WIDTH / on_stage(opened).shape[1])]).mean() < 40  # fmt: skip


def on_stage(browser: Browser) -> Array:
    """The images on the screen, without what is beside them."""
    seen = browser.pixels("#stage")
    scale = float(data(browser, "scale"))
    width, height = round(WIDTH * scale), round(HEIGHT * scale)
    left, top = (seen.shape[1] - width) // 2, (seen.shape[0] - height) // 2
    return seen[top : top + height, left : left + width]


def test_one_side_difference_and_flicker_by_keys(opened: Browser) -> None:
    def shown() -> list[bool]:
        layers = ("left", "right", "difference")
        return [
            not opened.run("return document.getElementById('layer-' + arguments[0]).hidden", each) for each in layers
        ]

    assert shown() == [True, True, False]
    press(opened, "1")
    assert shown() == [True, False, False]
    press(opened, "2")
    assert shown() == [False, True, False]
    press(opened, "0")
    assert shown() == [False, False, True]
    expected = np.abs(canvas(opened, "left").astype(int) - canvas(opened, "right"))
    assert np.abs(canvas(opened, "difference").astype(int) - expected).max() <= 2
    assert expected.mean() > 1, "a small and a large image differ"
    assert opened.run("return getComputedStyle(document.getElementById('canvas-difference')).filter") == "brightness(4)"
    press(opened, "0")
    assert shown() == [True, True, False], "the same key again returns to the wipe"
    press(opened, "f")
    opened.wait("document.getElementById('layer-left').hidden")
    opened.wait("document.getElementById('layer-right').hidden")
    press(opened, "f")
    press(opened, "s")
    assert data(opened, "mode") == "side" and shown() == [True, True, False]
    press(opened, "x")
    assert opened.run("return document.getElementById('left').value") == "1"


def test_both_sides_are_zoomed_and_moved_together(opened: Browser) -> None:
    def transforms() -> list[str]:
        return [
            opened.run("return document.getElementById('canvas-' + arguments[0]).style.transform", side)
            for side in ("left", "right", "difference")
        ]

    for value in ("1", "2", "4", "8"):
        opened.run("document.querySelector(`input[name=zoom][value='${arguments[0]}']`).click()", value)
        assert float(data(opened, "scale")) == float(value)
        first, *others = transforms()
        assert others == [first, first] and f"scale({value})" in first
    before = transforms()[0]
    stage = opened.driver.find_element("id", "stage")
    stage.send_keys(Keys.ARROW_RIGHT + Keys.ARROW_DOWN)
    after = transforms()
    assert after[0] != before and len(set(after)) == 1
    press(opened, "---")
    assert data(opened, "zoom") == "3"
    press(opened, "+++++++")
    assert data(opened, "zoom") == "8"
    press(opened, "-" * 8)
    assert data(opened, "zoom") == "1", "the whole image would be larger than that here"
    opened.resize(200, 500)
    opened.wait("Number(document.getElementById('stage').dataset.scale) === 1 && innerWidth === 200")
    press(opened, "-")
    assert data(opened, "zoom") == "fit" and float(data(opened, "scale")) < 1
    opened.resize(1000, 1000)
    opened.wait("Number(document.getElementById('stage').dataset.scale) > 2")
    # At 8x a pixel of the result is a square of 8 pixels of the screen.
    opened.run("document.querySelector('input[name=zoom][value=\"8\"]').click()")
    press(opened, "2")
    seen = opened.pixels("#stage")[40:104, 60:124].astype(int)
    changes = np.flatnonzero(np.abs(np.diff(seen, axis=1)).max(axis=(0, 2)) > 0)
    assert len(set(changes % 8)) <= 1


def test_every_control_has_a_name_and_can_be_reached(opened: Browser) -> None:
    nodes = opened.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    roles = {"button", "slider", "combobox", "radio", "checkbox", "group", "img"}
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    controls = [(role, name) for role, name in named if role in roles]
    assert {role for role, _ in controls} >= {"button", "slider", "combobox", "radio", "checkbox"}
    assert [role for role, name in controls if not name] == []
    assert ("button", "Play") in controls and ("radio", "Wipe") in controls
    order = []
    opened.run("document.activeElement.blur()")
    for _ in range(12):
        opened.driver.switch_to.active_element.send_keys(Keys.TAB)
        order.append(opened.driver.switch_to.active_element.get_attribute("id"))
    assert [name for name in order if name][:9] == [
        "left", "swap", "right", "stage", "wipe", "previous", "play", "next", "frame",
    ]  # fmt: skip
    heading = opened.driver.find_element("tag name", "h1").text
    assert heading == f"small, large <b>&amp; and {LONG}"


@pytest.mark.parametrize("width", [360, 1600])
def test_the_page_fits_the_window(opened: Browser, width: int) -> None:
    colors = []
    for dark in (False, True):
        opened.resize(width, 900, dark)
        opened.wait(f"innerWidth === {width}")
        assert opened.run("return document.documentElement.scrollWidth") <= width
        color = opened.run("return getComputedStyle(document.body).backgroundColor")
        colors.append(sum(map(int, re.findall(r"\d+", color)[:3])) / 3)
    assert colors[0] > 200 and colors[1] < 60


def test_a_clip_that_cannot_be_played_is_said(browser: Browser, page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    broken = re.sub(r'(id="media-\d">)[^<]*', r"\1AAAAIGZ0eXBpc29t", text)
    assert broken != text
    (tmp_path / "broken.html").write_text(broken, encoding="utf-8")
    browser.open(tmp_path / "broken.html")
    browser.wait("document.getElementById('stage').dataset.refused")
    message = browser.driver.find_element("id", "message")
    assert message.is_displayed() and "cannot play the clips" in message.text
    browser.wait("document.getElementById('stage').dataset.drawn > 0")
    assert not browser.driver.find_element("id", "transport").is_displayed()
    assert len(set(numbers(browser))) == 1, "one frame of each input, of the same moment"


def test_still_images(browser: Browser, tmp_path: Path) -> None:
    for name, size in (("a.png", (64, 48)), ("b.png", (WIDTH, HEIGHT))):
        media.encode(tmp_path / name, [media.numbered_image(5, *size)], ("-frames:v", "1"))
    vidsr.compare(tmp_path / "a.png", tmp_path / "b.png", html=tmp_path / "c.html", faces=False)
    browser.open(tmp_path / "c.html")
    browser.wait("document.getElementById('stage').dataset.drawn > 0")
    assert np.array_equal(canvas(browser, "right"), media.numbered_image(5, WIDTH, HEIGHT)), "a PNG is lossless"
    assert media.read_number(canvas(browser, "left")) == 5
    assert not browser.driver.find_element("id", "transport").is_displayed()
    assert browser.complaints() == []
