"""The report in a real browser: what a person does with it, and what a hostile record may not do."""

import os
import shutil
from pathlib import Path

import pytest
from make_records import make_record
from playwright.sync_api import expect, sync_playwright

from robustft.results.plots import gallery
from robustft.results.plots.figure_data import Material
from robustft.results.records.records import gather_reference
from robustft.results.report.report import Picture, write

pytestmark = pytest.mark.browser

CHROMIUM = os.environ.get("ROBUSTFT_CHROMIUM") or shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"
BREAKOUT = "</script><script>document.title='taken'</script>"


@pytest.fixture(scope="session")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no chromium at {CHROMIUM}; install Debian's package chromium, or set ROBUSTFT_CHROMIUM")

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """The committed reference, and local runs with names that try to be more than text."""
    reference = gather_reference("digits")
    local = [make_record("zero_shot", rules=(), accuracy=0.7)]
    for method in (HOSTILE, BREAKOUT):
        record = make_record(method, gaps=[0.4, 0.3], line={0.0: 0.7, 1.0: 0.8}, hyper={"alpha": 1.0, "note": HOSTILE})
        record["info"]["note"] = BREAKOUT
        local.append(record)
    for record in local:
        record["spec"]["fingerprint"] = reference[0]["spec"]["fingerprint"]  # the same data: one section
    made = Material(tuple(local), tuple(reference))
    return write(made, tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def open_page(browser, report):
    """Opens the report; afterwards nothing may have been logged, requested or broken."""
    contexts, complaints = [], []

    def opened(**options):
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda request: request.url.startswith("file:") or complaints.append(request.url))
        page.goto(report.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def visible_rows(page):
    """(method, backbone, OOD mean or None) of each row that is shown in the first section."""
    return page.evaluate("""() => {
      const view = [...document.querySelectorAll('.benchmark .view')].find((v) => !v.hidden);
      const column = [...view.querySelectorAll('thead th')].findIndex((h) => h.dataset.column === 'acc_ood_mean');
      return [...view.querySelectorAll('tbody tr')].filter((row) => row.offsetParent).map((row) => [
        row.cells[0].textContent.trim(), row.cells[1].textContent.trim(), Number(row.cells[column].dataset.value)]);
    }""")


def press_column(page, title):
    page.locator(".benchmark .view:not([hidden]) thead button", has_text=title).first.click()


def test_a_column_sorts_down_then_up_then_back(open_page):
    page = open_page()
    given = visible_rows(page)
    press_column(page, "OOD mean")
    falling = [row[2] for row in visible_rows(page)]
    assert falling == sorted(falling, reverse=True) and len(falling) == len(given) > 20
    press_column(page, "OOD mean")
    assert [row[2] for row in visible_rows(page)] == sorted(falling)
    press_column(page, "OOD mean")
    assert visible_rows(page) == given
    press_column(page, "method")
    names = [row[0].rstrip("‖") for row in visible_rows(page)]
    assert names[-1] == "zero_shot" and names.index("ema") < names.index("flyp") < names.index("wise_ft")


def test_calibration_sorts_from_the_smallest_error(open_page):
    page = open_page()
    press_column(page, "OOD ECE")
    head = page.locator(".benchmark .view:not([hidden]) thead th[data-column=ece_ood_mean]")
    assert head.get_attribute("aria-sort") == "ascending"
    values = page.evaluate(
        "(column) => [...document.querySelectorAll('.benchmark .view:not([hidden]) tbody tr')].map("
        "(row) => Number(row.cells[column].dataset.value))",
        head.evaluate("(head) => head.cellIndex"),
    )
    assert values == sorted(values)


def test_filters_leave_the_rows_that_fit_and_count_them(open_page):
    page = open_page()
    every = visible_rows(page)
    form = page.locator(".benchmark form").first
    form.locator("[name=backbone]").select_option("tiny-rn")
    assert {row[1] for row in visible_rows(page)} == {"tiny-rn"}
    form.locator("[name=text]").fill("tracer")
    tracers = [row for row in every if row[0].startswith("tracer") and row[1] == "tiny-rn"]
    assert visible_rows(page) == tracers and "tracer" in [row[0] for row in tracers]
    assert form.locator(".count").inner_text() == f"{len(tracers)} of {len(every)} rows"
    form.locator("[name=text]").fill("nothing like it")
    assert visible_rows(page) == []
    assert page.locator(".benchmark .view:not([hidden]) .nothing").is_visible()
    form.locator("[name=text]").fill("")
    form.locator("[name=backbone]").select_option("")
    form.locator("[name=provenance]").select_option("local")
    assert len(visible_rows(page)) == 3
    form.locator("[name=provenance]").select_option("")
    assert visible_rows(page) == every
    form.locator("[name=view]").select_option("best_id")
    assert page.locator(".benchmark .view:visible").get_attribute("data-view") == "best_id"


def test_cells_can_show_the_change_from_zero_shot(open_page):
    page = open_page()
    rows = page.locator(".benchmark .view:not([hidden]) tr").filter(has_text="tiny-rn")
    row = rows.filter(has_text="wise_ft (alpha 0.5)").first
    of_id = "(row) => Number(row.querySelectorAll('td.number')[1].dataset.value)"
    gained = row.evaluate(of_id) - rows.filter(has_text="zero_shot").first.evaluate(of_id)
    assert "+" not in row.inner_text() and gained > 0
    page.locator("[name=change]").first.check()
    assert row.locator("td.number").nth(1).inner_text() == f"+{100 * gained:.1f}"


def test_a_run_has_a_page_by_mouse_keyboard_and_address(open_page):
    page = open_page()
    page.locator("#runs tbody a").last.click()
    heading = page.locator("#run h1")
    expect(heading).to_be_visible()  # the page turns when the browser has told of the new address, a little later
    expect(page.locator("#overview")).to_be_hidden()
    assert "lr" in page.locator("#run").inner_text() and "tuned one_se" in page.locator("#run").inner_text()
    address = page.url
    page.keyboard.press("Escape")
    expect(page.locator("#overview")).to_be_visible()
    assert page.url.endswith("#runs")
    page.goto(address)
    expect(heading).to_be_visible()


def test_the_keyboard_sorts_filters_and_opens(open_page):
    page = open_page()
    fitting = [row for row in visible_rows(page) if "flyp" in row[0]]
    page.keyboard.press("/")
    page.keyboard.type("flyp")
    assert visible_rows(page) == fitting and {"flyp", "flyp_wma"} <= {row[0] for row in fitting}
    button = page.locator(".benchmark .view:not([hidden]) thead button", has_text="method").first
    button.focus()
    page.keyboard.press("Enter")
    assert page.locator(".benchmark .view:not([hidden]) thead th").first.get_attribute("aria-sort") == "ascending"
    assert button.evaluate("(b) => getComputedStyle(b).outlineStyle") != "none"  # the focus can be seen


def test_hostile_names_and_notes_are_shown_and_do_nothing(open_page):
    page = open_page()
    title = page.title()
    names = [row[0] for row in visible_rows(page)]
    assert any(name.startswith(HOSTILE) for name in names) and any(name.startswith(BREAKOUT) for name in names)
    for i, name in enumerate((HOSTILE, BREAKOUT)):
        page.locator("#runs input").fill("local " + ("onerror" if i == 0 else "/script"))
        page.locator("#runs tbody tr:visible a").first.click()
        expect(page.locator("#run h1")).to_contain_text(name)
        assert page.locator("#run h1").inner_text().startswith(name)
        assert page.locator("#run .chart").count() >= 3  # dynamics and path
        page.locator("#run details summary").click()
        assert "document.title" in page.locator("#run pre").inner_text()
        page.keyboard.press("Escape")
    assert page.title() == title and page.locator("img").count() == 0


def background(page):
    channels = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).map(Number)")
    return sum(channels[:3]) / 3


def test_dark_and_light_follow_the_system_and_the_button(open_page):
    page = open_page(color_scheme="dark")
    assert background(page) < 60
    page.locator("#theme").click()
    assert page.locator("#theme").inner_text().endswith("light") and background(page) > 200
    page.locator("#theme").click()
    assert background(page) < 60
    assert background(open_page(color_scheme="light")) > 200


def contrast(page, selector):
    """WCAG contrast of an element's text with the page or card behind it."""
    return page.evaluate(
        """(selector) => {
      const light = (css) => { const [r, g, b] = css.match(/[0-9.]+/g).map((v) => v / 255)
          .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      let element = document.querySelector(selector);
      const ink = light(getComputedStyle(element).color);
      while (getComputedStyle(element).backgroundColor === 'rgba(0, 0, 0, 0)') element = element.parentElement;
      const paper = light(getComputedStyle(element).backgroundColor);
      return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    }""",
        selector,
    )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(open_page, scheme):
    page = open_page(color_scheme=scheme)
    page.locator("[name=change]").first.check()
    for selector in (".about", "tbody td", "tr.reference td", ".better", ".worse", "thead th", "footer dd", "#runs a"):
        assert contrast(page, selector) >= 4.5, selector


@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_phone_never_scrolls_sideways(open_page, width):
    page = open_page(viewport={"width": width, "height": 800})
    measure = "document.documentElement.scrollWidth"
    assert page.evaluate(measure) <= width
    scroller = page.locator(".benchmark .view:not([hidden]) .scroll")
    assert scroller.evaluate("(s) => s.scrollWidth > s.clientWidth")  # the table does, in its own frame
    page.locator("#runs tbody a").first.click()
    page.locator("#run details summary").click()
    assert page.evaluate(measure) <= width


def test_a_phone_shows_numbers_and_backbones_beside_whole_words(open_page):
    page = open_page(viewport={"width": 390, "height": 800})
    for row in page.locator(".benchmark .view:not([hidden]) tbody tr").all()[:20]:
        box = row.locator("td[data-value]").nth(1).bounding_box()  # ID accuracy, behind the seeds
        assert box["x"] + box["width"] <= 390, row.inner_text()
        told = row.locator("th").evaluate("(th) => getComputedStyle(th, '::after').content")
        about = f"{row.get_attribute('data-backbone')}, {row.get_attribute('data-provenance')}"
        assert told == f'"{about}"' and not row.locator("td").first.is_visible()
    name = page.locator(".benchmark .view:not([hidden]) tbody th", has_text="tracer_static_teacher").first
    assert name.bounding_box()["height"] < 90  # its words over two or three lines, and not letter by letter
    button = page.locator(".benchmark .view:not([hidden]) thead th").first
    assert button.bounding_box()["width"] < 170


def test_the_sticky_first_column_stands_in_line_with_its_row(open_page):
    page = open_page()
    rows = "[...document.querySelectorAll('.benchmark .view:not([hidden]) tbody tr')]"
    heights = page.evaluate(f"{rows}.map((row) => row.getBoundingClientRect().height)")
    assert len(heights) > 50 and {height % 1 for height in heights} == {0}  # else it is drawn a pixel above or below


@pytest.mark.parametrize("width", [390, 1300])
def test_letters_of_figures_can_be_read(browser, tmp_path, width):
    """Nine points on paper; on a screen at least eight pixels high, whatever the number of panels."""
    reference = gather_reference("digits")
    made = Material(reference=tuple(reference)).of("digits")
    names = ("id_ood", "flips", "calibration")
    pictures = [Picture(name, name, "", gallery.make(name, made)[".svg"].decode()) for name in names]
    path = write(made, tmp_path / "report.html", {"digits": pictures})
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(path.as_uri())
    for name in names:
        picture = page.locator(f"figure[id$={name}] svg")
        points = picture.evaluate("(svg) => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width")
        assert 9 * points >= 8, (name, points)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def test_the_tables_are_there_without_javascript(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator(".benchmark tbody tr").first.is_visible()
    assert not page.locator("form").first.is_visible()
    context.close()
