"""The report in a real browser, opened from disk: sliders, selects, plots, phone width, no errors.

Skipped where Chromium and its driver are not installed (Debian: chromium, chromium-driver).
"""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
ActionChains = pytest.importorskip("selenium.webdriver.common.action_chains").ActionChains
Select = pytest.importorskip("selenium.webdriver.support.select").Select
WebDriverWait = pytest.importorskip("selenium.webdriver.support.wait").WebDriverWait

Command = Callable[..., Any]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP, PHONE = (1280, 900), (390, 844)
CSS = "css selector"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def page(
    tmp_path_factory: pytest.TempPathFactory, make_data: Command, stdpipe: Command, train: Command
) -> str:
    """A report of two networks on one clip, and of a training, as a file:// address."""
    from stdpipe.report import write_report

    root = tmp_path_factory.mktemp("page")
    data = make_data(root / "data", clips=1, height=64, width=96)
    stdpipe(*train(root / "run", data, scheme="none"))
    models = ("--model", "bicubic", "--model", f"@{root / 'run' / 'weights.pt'}")
    stdpipe("evaluate", "--data", data, *models, "--protocol", "vid4", "--out", root / "e")
    write_report([root / "e", root / "run"], root / "report", labels={"bicubic": EVIL})
    return (root / "report" / "index.html").as_uri()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (binary and driver):
        pytest.skip("needs chromium and chromium-driver: apt-get install them")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(driver)
    browser = webdriver.Chrome(options=options, service=service)
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Any, page: str) -> Iterator[Any]:
    """The page, freshly opened at desktop width; afterwards the console must be empty."""
    resize(chromium, DESKTOP)
    chromium.get(page)
    chromium.get_log("browser")
    chromium.get(page)
    # plots are drawn once their size is known, which a busy machine may tell late
    WebDriverWait(chromium, 60).until(lambda page: len(page.find_elements(CSS, ".point")) == 2)
    yield chromium
    assert chromium.get_log("browser") == []


def resize(browser: Any, size: tuple[int, int]) -> None:
    width, height = size
    screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def find(browser: Any, selector: str) -> Any:
    element = browser.find_element(CSS, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    return element


def divider(browser: Any) -> float:
    """Where it stands on the slider's canvas, from 0 to 1."""
    return float(
        browser.execute_script(
            "const c = document.querySelector('.canvas').getBoundingClientRect();"
            "const d = document.querySelector('.divider').getBoundingClientRect();"
            "return ((d.left + d.right) / 2 - c.left) / c.width"
        )
    )


def test_the_divider_moves_by_keyboard(browser: Any) -> None:
    assert divider(browser) == pytest.approx(0.5, abs=0.01)
    handle = find(browser, ".divide input")
    handle.send_keys(Keys.ARROW_LEFT * 20)
    assert divider(browser) == pytest.approx(0.3, abs=0.01)
    clip = browser.find_element(CSS, ".over").value_of_css_property("clip-path")
    assert "70" in clip
    stage = find(browser, ".stage")
    stage.send_keys(Keys.ARROW_RIGHT * 5)
    assert divider(browser) == pytest.approx(0.35, abs=0.01)
    assert handle.get_attribute("aria-valuetext").startswith("35 %")


def test_the_divider_moves_by_mouse(browser: Any) -> None:
    stage = find(browser, ".stage")
    quarter = stage.size["width"] // 4
    actions = ActionChains(browser).move_to_element(stage).click_and_hold()
    actions.move_by_offset(quarter, 10).release().perform()
    assert divider(browser) == pytest.approx(0.75, abs=0.02)
    ActionChains(browser).move_by_offset(-quarter, 0).perform()
    assert divider(browser) == pytest.approx(0.75, abs=0.02), "it follows when nothing is held"


def test_the_divider_moves_by_touch(browser: Any) -> None:
    resize(browser, PHONE)
    stage = find(browser, ".stage")
    box = browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", stage)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *points: dict[str, float]) -> None:
        browser.execute_cdp_cmd(
            "Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)}
        )

    touch("touchStart", {"x": x, "y": y})
    for part in (0.1, 0.2, 0.3):
        touch("touchMove", {"x": x - part * box["width"], "y": y})
    touch("touchEnd")
    assert divider(browser) == pytest.approx(0.2, abs=0.03)


def test_the_selects_change_the_pictures(browser: Any) -> None:
    over, under = (browser.find_element(CSS, name) for name in (".over", ".under"))
    first = over.get_attribute("src")
    Select(find(browser, ".left")).select_by_visible_text("HR")
    assert over.get_attribute("src") != first
    assert over.get_attribute("alt") == "Left: HR, whole frame"
    Select(find(browser, ".right")).select_by_visible_text("HR")
    assert under.get_attribute("src") == over.get_attribute("src")
    Select(find(browser, ".view")).select_by_visible_text("crop")
    exact = [
        i
        for i in browser.find_elements(CSS, ".grid img")
        if "HR, crop" in i.get_dom_attribute("alt")
    ]
    assert over.get_attribute("src") == exact[0].get_attribute("src")
    assert over.get_attribute("src").startswith("data:image/png")
    assert not browser.find_element(CSS, ".stage .marks").is_displayed()


def test_zoom_keeps_the_divider_in_sight(browser: Any) -> None:
    stage = find(browser, ".stage")
    width = stage.size["width"]
    Select(find(browser, ".zoom")).select_by_visible_text("4×")
    assert stage.size["width"] == width
    seen = browser.execute_script("return arguments[0].clientWidth", stage)  # less a scrollbar
    assert browser.find_element(CSS, ".canvas").size["width"] == 4 * seen
    assert divider(browser) == pytest.approx(0.5, abs=0.02)
    browser.execute_script("arguments[0].scrollTo(0, 0)", stage)
    browser.execute_async_script("requestAnimationFrame(() => setTimeout(arguments[0], 50))")
    assert divider(browser) == pytest.approx(0.125, abs=0.02)


def test_points_are_reached_by_keyboard(browser: Any) -> None:
    points = browser.find_elements(CSS, ".point")
    assert len(points) == 2
    find(browser, "#cost-0 select").click()
    select = browser.find_elements(CSS, "#cost-0 select")[-1]
    browser.execute_script("arguments[0].focus()", select)
    ActionChains(browser).send_keys(Keys.TAB).perform()
    assert browser.switch_to.active_element == points[0]
    tip = browser.find_element(CSS, "#cost-0 .tip")
    assert tip.text.startswith(EVIL), "a name is text"
    ActionChains(browser).send_keys(Keys.ARROW_RIGHT).perform()
    assert browser.switch_to.active_element == points[1]
    assert tip.text.startswith("run\n")
    assert "PSNR Y (dB)" in points[1].get_attribute("aria-label")
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not tip.is_displayed()


def test_other_axes_of_the_plot(browser: Any) -> None:
    label = browser.find_element(CSS, ".point").get_attribute("aria-label")
    assert "GMAC" in label
    Select(find(browser, "#cost-0 select")).select_by_visible_text("Parameters")
    label = browser.find_elements(CSS, ".point")[1].get_attribute("aria-label")
    assert "Parameters" in label
    Select(browser.find_elements(CSS, "#cost-0 select")[2]).select_by_index(1)
    assert len(browser.find_elements(CSS, ".point")) == 2


def test_curves_tell_their_values(browser: Any) -> None:
    chart = find(browser, "#loss-0")
    assert len(chart.find_elements(CSS, "polyline")) == 1
    cursor = chart.find_element(CSS, "input")
    assert chart.find_element(CSS, "output").text.startswith("Step 3. run: ")
    cursor.send_keys(Keys.ARROW_LEFT)
    assert chart.find_element(CSS, "output").text.startswith("Step 2. run: ")
    assert chart.find_element(CSS, ".tip").is_displayed()
    ActionChains(browser).move_to_element(chart.find_element(CSS, "svg")).perform()
    assert chart.find_element(CSS, ".tip").is_displayed()


def test_nothing_sticks_out(browser: Any) -> None:
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        paper = browser.find_element(CSS, "body").value_of_css_property("background-color")
        assert ("251" in paper) == (scheme == "light")
        for size in (DESKTOP, PHONE, (320, 640)):
            resize(browser, size)
            width, inner = browser.execute_script(
                "return [document.documentElement.scrollWidth, window.innerWidth]"
            )
            assert width <= inner == size[0]


def test_words_stand_out_from_their_ground(browser: Any) -> None:
    """WCAG's 4.5 to 1 for every colour of text, in both modes."""
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        for ink, ground in (
            ("ink", "paper"), ("quiet", "paper"), ("quiet", "sheet"), ("accent", "paper"),
            ("best-ink", "best"), ("notice-ink", "notice"), ("ink", "faint"),
        ):  # fmt: skip
            ratio = browser.execute_script(CONTRAST, f"--{ink}", f"--{ground}")
            assert ratio >= 4.5, f"{ink} on {ground}, {scheme}: {ratio:.2f}"
        for number in range(8):
            ratio = browser.execute_script(CONTRAST, f"--c{number}", "--sheet")
            assert ratio >= 3, f"colour {number} of plots, {scheme}: {ratio:.2f}"


CONTRAST = """
const style = getComputedStyle(document.documentElement);
const light = (name) => {
  const hex = style.getPropertyValue(name).trim().slice(1);
  const [r, g, b] = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const [a, b] = [light(arguments[0]), light(arguments[1])].sort((x, y) => y - x);
return (a + 0.05) / (b + 0.05);
"""


def test_controls_and_pictures_have_names_and_nothing_is_fetched(browser: Any) -> None:
    unnamed = browser.execute_script(
        "return [...document.querySelectorAll('select, input')]"
        ".filter((e) => !e.labels.length || !e.labels[0].textContent.trim()).length"
    )
    assert unnamed == 0
    assert browser.execute_script("return document.images.length") > 10
    empty = "return [...document.images].filter((i) => !i.alt || !i.naturalWidth).length"
    assert browser.execute_script(empty) == 0
    found = browser.execute_script(
        "return performance.getEntriesByType('resource').map((e) => e.name)"
        ".filter((name) => !name.startsWith('data:'))"
    )
    assert found == []
