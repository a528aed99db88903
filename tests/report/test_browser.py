"""The page in a real browser, without a network: what a reader sees, and what the keyboard does."""

from __future__ import annotations

import pytest

from oodline.report.page import write_page

from .conftest import EVIL, EVIL_CLASS, EVIL_LABEL

CELLS = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"


@pytest.fixture(scope="module")
def address(run, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(run, path)
    return path.as_uri()


@pytest.fixture(scope="module")
def page(browser, address):
    """A wide, light page; every complaint of the browser is kept, and every test leaves it as it was."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light", offline=True)
    page = context.new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.complaints.append(request.url) if request.url.startswith("http") else None)
    page.goto(address)
    yield page
    context.close()


def test_it_loads_without_a_network_or_a_complaint(page):
    page.wait_for_selector("#histogram .main-svg")
    assert page.complaints == []
    assert page.title() == f"{EVIL} & co · oodline report"
    assert page.locator(".plot .main-svg").count() >= 3


def test_names_in_the_data_are_text_and_run_nothing(page):
    page.select_option("#detector", label=EVIL_LABEL)
    assert page.evaluate("window.bad === undefined")
    assert page.locator("#flagged").inner_text().count(EVIL) == 1  # the group of the near set
    assert EVIL_CLASS in page.locator("#pictures").inner_text()
    assert EVIL_LABEL in page.locator("#histogram").get_attribute("aria-label")
    assert page.locator("img").evaluate_all("all => all.every(image => image.src.startsWith('data:image/'))")
    page.locator("#pictures img").evaluate_all("all => all.forEach(image => image.loading = 'eager')")
    page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth === 8)")
    page.select_option("#detector", label="energy")
    assert page.complaints == []


def test_the_security_policy_stops_a_script_that_came_in(browser, address):
    page = browser.new_page(offline=True)
    page.goto(address)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.bad = 1\">')")
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.bad = 1'}))")
    page.wait_for_timeout(100)
    assert page.evaluate("window.bad === undefined")
    page.close()


def test_the_slider_by_keyboard_says_what_would_be_flagged(run, page):
    for label in ("energy", EVIL_LABEL):
        page.select_option("#detector", label=label)
        page.select_option("#set", label="far")
        assert float(page.locator("#threshold-value").get_attribute("value")) == run.record.detectors[label].threshold
        page.focus("#slider")
        for key, presses in (("ArrowRight", 3), ("End", 1), ("ArrowLeft", 2), ("Home", 1)):
            for _ in range(presses):
                page.keyboard.press(key)
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            threshold = float(page.locator("#threshold-value").get_attribute("value"))
            rows = page.locator("#flagged tr").evaluate_all(
                "rows => rows.map(r => [...r.cells].map(c => c.textContent))"
            )
            assert [row[0] for row in rows] == ["test", "shifted", "near", "far"]
            for name, _, share, count, _ in rows:
                flagged = int((run.scores(name)[label] < threshold).sum())
                assert (share, count) == (f"{100 * flagged / 40:.1f} %", f"{flagged} / 40")
            assert f"Flagged: {rows[0][2]} of ID (false alarms), {rows[3][2]} of far." in page.inner_text("#summary")
            verdicts = page.locator(".verdict").evaluate_all("all => all.map(v => [v.dataset.score, v.textContent])")
            assert all((float(score) < threshold) == (text == "flagged") for score, text in verdicts)
            assert verdicts
        # everything is accepted at the first position: what is wrong then is all OOD and all mistakes
        wrong = int((run.predicted("test") != run.labels("test")).sum()) + 40
        assert f"{100 * wrong / 80:.1f} % are wrong" in page.inner_text("#summary")
    page.click("#reset")
    assert float(page.locator("#threshold-value").get_attribute("value")) == run.record.detectors[label].threshold


def test_tables_are_chosen_and_sorted(run, page):
    shown = page.locator(".metric:visible")
    assert shown.count() == 1
    page.select_option("#metric", label="FPR@95TPR, OOD positive")
    page.select_option("#spectrum", label="Full spectrum: covariate-shifted ID data counts as ID")
    table = run.table().full_spectrum
    expected = {label: f"{100 * table.value(label, 'fpr95_ood_positive', 'far'):.2f}" for label in table.cells}
    heading = shown.get_by_role("button", name="far", exact=True)
    for direction, order in (("descending", -1), ("ascending", 1)):
        heading.focus()
        page.keyboard.press("Enter")
        assert shown.locator("th[aria-sort]").get_attribute("aria-sort") == direction
        rows = shown.locator("tbody tr").evaluate_all(CELLS)
        assert {row[0]: row[2] for row in rows} == expected
        values = [order * float(row[2]) for row in rows]
        assert values == sorted(values)
    page.select_option("#metric", index=0)
    page.select_option("#spectrum", index=0)


def test_dark_and_light_differ_and_the_button_changes_them(browser, page, address):
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "document.querySelector('#histogram .xtitle').style.fill"
    light, light_ink = page.evaluate(paper), page.evaluate(ink)
    page.get_by_role("button", name="Dark theme").click()
    dark = page.evaluate(paper)
    assert dark != light
    assert page.evaluate(ink) != light_ink
    page.get_by_role("button", name="Light theme").click()
    assert (page.evaluate(paper), page.evaluate(ink)) == (light, light_ink)
    other = browser.new_page(color_scheme="dark", offline=True)
    other.goto(address)
    assert other.evaluate(paper) == dark
    other.close()


def test_text_has_enough_contrast_in_both_themes(page):
    script = """() => {
      const luminance = (text) => {
        const [r, g, b] = text.match(/[\\d.]+/g).slice(0, 3).map(Number).map((v) => v / 255)
          .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const style = getComputedStyle(document.documentElement);
      const probe = document.body.appendChild(document.createElement('i'));
      const of = (name) => { probe.style.color = `var(--${name})`; return luminance(getComputedStyle(probe).color); };
      const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      const found = [];
      for (const text of ['ink', 'soft', 'accent'])
        for (const ground of ['paper', 'panel']) found.push([4.5, text, ground, ratio(of(text), of(ground))]);
      for (const mark of ['id', 'ood']) found.push([3, mark, 'paper', ratio(of(mark), of('paper'))]);
      probe.remove();
      return found.filter(([least, , , value]) => value < least);
    }"""
    for name in ("Dark theme", "Light theme"):
        assert page.evaluate(script) == []
        page.get_by_role("button", name=name).click()


def test_a_phone_shows_it_without_scrolling_sideways(browser, address):
    page = browser.new_page(viewport={"width": 360, "height": 740}, offline=True)
    page.goto(address)
    page.wait_for_selector("#risk .main-svg")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate(
        "[...document.querySelectorAll('.plot .main-svg')].every(p => p.getBoundingClientRect().right <= 360)"
    )
    page.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(page, address):
    page.goto(address)  # the keyboard begins where it was left, unless the page is new
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left >= 0")
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        found = page.evaluate("""() => {
          const e = document.activeElement, style = getComputedStyle(e);
          const name = e.getAttribute('aria-label') || e.labels?.[0]?.textContent || e.textContent
            || document.getElementById(e.getAttribute('aria-labelledby'))?.textContent;
          return [e.id, e.tagName, style.outlineStyle, parseFloat(style.outlineWidth), name?.trim()];
        }""")
        if found[1] == "BODY":
            break
        assert found[2] != "none" and found[3] >= 2, found
        assert found[4], found
        reached.add(found[0])
    assert {"theme", "metric", "spectrum", "detector", "set", "slider", "reset"} <= reached


def test_printing_is_light_and_shows_every_table(page):
    page.get_by_role("button", name="Dark theme").click()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator(".metric:visible").count() == 10
    assert not page.locator("nav").is_visible()
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".metric:visible").count() == 1
    assert page.get_by_role("button", name="Light theme").is_visible()
    page.get_by_role("button", name="Light theme").click()
    assert page.complaints == []
