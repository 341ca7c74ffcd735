"""The report in a real browser: seen on a desk, a phone and paper, sorted by mouse and keyboard, harmless."""

import json
import re
import shutil
import time
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.eval.studies import HOSTILE, bare_study, hostile_study, study

pytest.importorskip("matplotlib", reason="needs matplotlib, which draws the figures")
pytest.importorskip("jinja2", reason="needs Jinja2, which fills the template")
pytest.importorskip("selenium", reason="needs selenium, which drives the browser")

from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from fundus_eval.report import report_html

DESK_PX, PHONE_PX, PAPER_PX = 1200, 360, 673  # paper: A4 at 96 pixels an inch, less the margins
PAGES = ("whole", "three", "hostile", "bare")
LISTED_S = 5

# Elements that reach over the right edge; on a screen, what lies in a region that scrolls by itself does not.
TOO_WIDE = """
return Array.from(document.querySelectorAll("body *"))
  .filter((element) => !element.closest(".skip") && !element.parentElement.closest(arguments[1]))
  .filter((element) => element.getBoundingClientRect().right > arguments[0] + 0.5)
  .map((element) => element.outerHTML.slice(0, 80))
"""
WHOLE = "return document.readyState === 'complete'"
FIGURES = """
return Array.from(document.images).map((image) =>
  [image.complete && image.naturalWidth > 0, image.clientWidth, image.clientHeight])
"""
COLUMN = """
return Array.from(document.querySelectorAll(".cases tbody tr"))
  .map((row) => row.cells[arguments[0]].textContent)
"""

# one row is like another, and looking at each takes its time
ALIKE = "document.querySelectorAll('.cases tbody tr:nth-child(n + 4)').forEach((row) => row.remove())"


class Browser:
    """One headless Chromium that shows the pages of a folder and remembers what they asked for."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def show(self, page: str, width_px: int = DESK_PX, medium: str = "screen") -> None:
        size = {"width": width_px, "height": 900, "deviceScaleFactor": 1, "mobile": width_px == PHONE_PX}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": medium})
        self.driver.get((self.folder / f"{page}.html").as_uri())
        # chromedriver may return before the page is whole
        WebDriverWait(self.driver, LISTED_S).until(lambda _: self.ask(WHOLE))

    def ask(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def requests(self) -> list[str]:
        """Every address asked for since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [event["request"]["url"] for event in sent]

    def focused(self) -> Any:
        return self.driver.switch_to.active_element

    def press(self, *keys: str) -> None:
        ActionChains(self.driver).send_keys(*keys).perform()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver, as Debian packages them")
    folder = tmp_path_factory.mktemp("pages")
    studies = (study(200), study(120, ("glaucoma", "cataract", "amd")), hostile_study(), bare_study())
    for name, of in zip(PAGES, studies, strict=True):
        (folder / f"{name}.html").write_text(report_html(of, HOSTILE[0], {}), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with webdriver.Chrome(options=options, service=Service(driver)) as started:
        yield Browser(started, folder)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("width_px", "medium"), [(DESK_PX, "screen"), (PHONE_PX, "screen"), (PAPER_PX, "print")]
)
def test_every_figure_is_drawn_and_nothing_is_wider_than_the_screen(
    browser: Browser, page: str, width_px: int, medium: str
) -> None:
    browser.show(page, width_px, medium)
    figures = browser.ask(FIGURES)
    assert len(figures) == {"whole": 8, "three": 22, "hostile": 22, "bare": 6}[page]
    assert all(drawn and width > 200 and height > 80 for drawn, width, height in figures)
    scrolling = ".scroll" if medium == "screen" else "none"
    assert browser.ask(TOO_WIDE, width_px, scrolling) == []
    assert browser.ask("return document.documentElement.scrollWidth") <= width_px


@pytest.mark.parametrize("page", PAGES)
def test_a_page_asks_for_nothing_and_reports_no_error(browser: Browser, page: str) -> None:
    browser.show("bare")
    browser.requests()
    browser.driver.get_log("browser")
    browser.show(page)
    asked, until_s = set[str](), time.monotonic() + LISTED_S
    while asked != {"file", "data"} and time.monotonic() < until_s:  # its pictures are listed late
        asked |= {url.partition(":")[0] for url in browser.requests()}
    assert asked == {"file", "data"}
    assert browser.driver.get_log("browser") == []


def test_hostile_texts_do_nothing(browser: Browser) -> None:
    browser.show("hostile")
    assert browser.driver.title == HOSTILE[0]
    assert HOSTILE[2] in browser.ask(COLUMN, 0)


def test_the_policy_stops_a_script_and_a_picture_that_were_slipped_in(browser: Browser) -> None:
    page = (browser.folder / "bare.html").read_text(encoding="utf-8")
    slipped = "<script>document.title = 'taken'</script><img src='https://example.org/x.png'>"
    (browser.folder / "slipped.html").write_text(page.replace("<main", f"{slipped}<main"), encoding="utf-8")
    browser.show("slipped")
    assert browser.driver.title == HOSTILE[0]
    stopped = [entry["message"] for entry in browser.driver.get_log("browser")]
    assert len(stopped) == 2
    assert all("Content Security Policy" in message for message in stopped)


def test_a_click_sorts_by_a_column_and_another_one_turns_the_order(browser: Browser) -> None:
    browser.show("whole")
    button = browser.driver.find_element(By.XPATH, "//table//button[.='score']")
    head = button.find_element(By.XPATH, "..")
    assert head.get_attribute("aria-sort") == "none"
    for order, backwards in (("descending", True), ("ascending", False)):
        browser.ask("arguments[0].click()", button)
        scores = [float(text) for text in browser.ask(COLUMN, 2)]
        assert scores == sorted(scores, reverse=backwards)
        assert head.get_attribute("aria-sort") == order
        status = browser.driver.find_element(By.CSS_SELECTOR, "[role=status]").text
        assert status == f"Sorted by score, {order}."
    assert (
        len(browser.driver.find_elements(By.CSS_SELECTOR, "[aria-sort=ascending], [aria-sort=descending]"))
        == 1
    )


def test_the_keyboard_sorts_and_the_focus_is_seen(browser: Browser) -> None:
    browser.show("whole")
    browser.ask("document.querySelector('.scroll:has(.cases)').focus()")
    browser.press(Keys.TAB)
    assert browser.focused().text.startswith("image")
    assert browser.focused().value_of_css_property("outline-style") == "solid"
    browser.press(Keys.ENTER)
    names = browser.ask(COLUMN, 0)
    assert names == sorted(names)
    browser.press(Keys.SPACE)
    assert browser.ask(COLUMN, 0) == names[::-1]


def test_the_first_key_offers_to_skip_to_the_results(browser: Browser) -> None:
    browser.show("whole")
    browser.press(Keys.TAB)
    assert browser.focused().text == "Skip to the results"
    assert browser.focused().rect["x"] >= 0
    browser.press(Keys.ENTER)
    assert browser.focused().get_attribute("id") == "main"


def test_paper_shows_the_first_rows_of_the_long_table_on_a_few_pages(browser: Browser) -> None:
    browser.show("whole", PAPER_PX, "print")
    shown = (
        "return Array.from(document.querySelectorAll('.cases tbody tr')).filter((r) => r.offsetHeight).length"
    )
    assert browser.ask(shown) == 40
    assert browser.driver.find_element(By.CSS_SELECTOR, ".paper").is_displayed()
    browser.show("whole", medium="")
    printed = browser.driver.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pages = re.findall(rb"/Type\s*/Page\b", b64decode(printed["data"]))
    assert 6 <= len(pages) <= 12


@pytest.mark.parametrize("page", ["three", "bare"])
def test_axe_finds_nothing_that_bars_anyone(browser: Browser, page: str) -> None:
    axe = pytest.importorskip(
        "axe_core_python.base", reason="needs axe-core-python, which brings the checker"
    )
    browser.show(page)
    browser.ask(ALIKE)
    browser.ask(axe.AXE_SCRIPT)
    found = browser.driver.execute_async_script("axe.run().then(arguments[0])")
    assert [(rule["id"], rule["nodes"][0]["html"]) for rule in found["violations"]] == []
    assert len(found["passes"]) > 20
