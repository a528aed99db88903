"""The page in a real browser: an image goes in, the verdict and its reasons come out, by keyboard and on a phone."""

from base64 import b64encode
from pathlib import Path

import pytest
import torch

import oodline as ol


@pytest.fixture
def open_page(browser):
    """Open the page of a server; whatever the browser complains of, such as the policy being broken, fails the test."""
    complaints, contexts = [], []

    def opened(client, width=1100, **more):
        context = browser.new_context(viewport={"width": width, "height": 800}, **more)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: m.type in ("error", "warning") and complaints.append(m.text))
        page.on(
            "request", lambda r: r.url.startswith((str(client.base_url), "blob:", "data:")) or complaints.append(r.url)
        )
        page.goto(str(client.base_url) + "/")
        return page

    yield opened, complaints
    for context in contexts:
        context.close()
    assert complaints == []


def choose(page, content, name="image.png", kind="image/png"):
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": content})


def settled(page, section="#verdict"):
    page.wait_for_selector(f"{section}:not([hidden])")
    page.wait_for_selector('#answer[aria-busy="false"]')
    return page


def test_an_image_shows_label_verdict_p_value_histogram_and_neurons(client, guard, open_page, picture):
    page = open_page[0](client)
    page.get_by_text("At most 5 %").wait_for()
    choose(page, picture("noise", (20, 12)), "noise.png")
    settled(page)
    row = client.post("/v1/explain", content=picture("noise", (20, 12)), headers={"content-type": "image/png"}).json()
    assert page.inner_text("#decision-words") == "Flagged as out-of-distribution"
    assert f"“{row['class_name']}”" in page.inner_text("#says")
    assert float(page.inner_text("#p-value")) == pytest.approx(row["p_value"], rel=0.01)
    assert float(page.inner_text("#threshold")) == pytest.approx(row["threshold"], rel=0.01)
    assert page.get_attribute("#preview", "alt") == "The image that was sent: noise.png"
    bars = page.locator("#histogram rect")
    counts = client.get("/v1/info").json()["histogram"]["counts"]
    assert bars.count() >= sum(count > 0 for count in counts)
    this, threshold = (page.locator(f"#histogram line.{name}").get_attribute("x1") for name in ("this", "threshold"))
    assert float(this) < float(threshold)  # flagged: to the left
    for place in ("missing", "unexpected"):
        shown = [int(number) for number in page.locator(f"#{place} tbody th").all_inner_texts()]
        assert shown == [neuron["neuron"] for neuron in row[place]]
    samples = row["missing"][0]["samples"]
    shown = page.locator("#missing td.images").first.locator("img")
    kept = [sample["index"] for sample in samples if sample["picture"]]
    assert [image.get_attribute("alt") for image in shown.all()] == [f"Training image {i}" for i in kept] != []
    assert shown.first.evaluate("image => image.decode().then(() => image.naturalWidth)") == 8
    likely = [one["name"] for one in row["classes"]]
    assert page.locator("#classes span:first-child").all_inner_texts() == likely
    choose(page, picture("blue"))
    page.locator("#decision-words", has_text="Accepted as in-distribution").wait_for()
    assert "“blue”" in page.inner_text("#says")
    this, threshold = (page.locator(f"#histogram line.{name}").get_attribute("x1") for name in ("this", "threshold"))
    assert float(this) > float(threshold)


def test_a_screen_reader_is_told_and_the_keyboard_reaches_everything(client, open_page, picture):
    page = open_page[0](client)
    choosers = []
    # Listened to from the start: the browser takes a moment to hand choosers over.
    page.on("filechooser", lambda chooser: choosers.append(chooser))
    status = page.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    page.locator("#promise", has_text="At most").wait_for()  # the page has begun
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Space")
    for _ in range(200):
        if choosers:
            break
        page.wait_for_timeout(50)
    choosers[0].set_files({"name": "a.png", "mimeType": "image/png", "buffer": picture("red")})
    settled(page)
    assert status.inner_text().startswith("Accepted as in-distribution. The classifier says “red”")
    assert "this image at" in page.get_by_role("img", name="Histogram").get_attribute("aria-label")
    assert page.evaluate("document.activeElement.id") == "file"  # still there, for the next image
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "API"


def transfer(page, content, event, target):
    page.evaluate(
        """([text, event, target]) => {
            const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
            const data = new DataTransfer();
            data.items.add(new File([bytes], "given.png", { type: "image/png" }));
            const options = { bubbles: true, cancelable: true };
            document.querySelector(target).dispatchEvent(event === "paste"
                ? new ClipboardEvent(event, { ...options, clipboardData: data })
                : new DragEvent(event, { ...options, dataTransfer: data }));
        }""",
        [b64encode(content).decode(), event, target],
    )


def test_an_image_may_be_dropped_anywhere_or_pasted(client, open_page, picture):
    page = open_page[0](client)
    transfer(page, picture("lime"), "dragenter", "#drop")
    assert "over" in page.get_attribute("#drop", "class")
    transfer(page, picture("lime"), "drop", "footer")
    assert "“green”" in settled(page).inner_text("#says")
    assert "over" not in page.get_attribute("#drop", "class")
    transfer(page, picture("blue"), "paste", "body")
    page.locator("#says", has_text="“blue”").wait_for()


def test_a_refusal_says_what_to_do_and_takes_the_old_verdict_away(client, open_page, picture):
    opened, complaints = open_page
    page = opened(client)
    choose(page, picture("red"))
    settled(page)
    choose(page, picture("noise", (40, 30))[:200])
    settled(page, "#problem")
    assert page.inner_text("#problem-title") == "The image cannot be read"
    assert page.inner_text("#problem-remedy").startswith("Send a complete PNG")
    assert page.get_by_role("status").inner_text().startswith("The image cannot be read.")
    for gone in ("#verdict", "#scores", "#explanation"):
        assert page.locator(gone).is_hidden()
    choose(page, picture("red"))
    settled(page)
    assert page.locator("#problem").is_hidden()
    assert all("422" in complaint for complaint in complaints)  # the browser logs refusals
    complaints.clear()


def test_names_from_the_service_are_text_and_never_markup(guard, serving, open_page, picture):
    evil = "<img src=x onerror=document.title='owned'>"
    named = ol.Guard(
        guard.classifier, guard.detector, guard.calibration, class_names=[evil] * 3, preprocessing=guard.preprocessing
    )
    page = open_page[0](serving(named))
    choose(page, picture("red"), name=evil)
    assert evil in settled(page).inner_text("#says")
    assert page.title() == "oodline"
    images = page.locator("main img")
    sources = [images.nth(i).get_attribute("src") for i in range(images.count())]
    assert all(source is None or source.startswith(("data:image/png;base64,", "blob:")) for source in sources), sources


def test_a_token_is_asked_for_and_used(serving, open_page, picture):
    opened, complaints = open_page
    page = opened(serving(token="open sesame"))
    page.wait_for_selector("#token:not([hidden])")
    page.fill("#secret", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token-note:not([hidden])")
    page.fill("#secret", "open sesame")
    page.keyboard.press("Enter")
    page.wait_for_selector("#token[hidden]", state="attached")
    choose(page, picture("red"))
    assert "“red”" in settled(page).inner_text("#says")
    assert all("401" in complaint for complaint in complaints)
    complaints.clear()


def test_it_works_with_a_detector_that_does_not_explain_and_with_a_promise_by_class(guard, serving, open_page, picture):
    held_out = [torch.eye(3)[torch.arange(90) % 3][:, :, None, None] + 0.2 * torch.randn(90, 3, 8, 8)]
    msp = ol.Guard(guard.classifier, ol.MSP(), preprocessing=guard.preprocessing).calibrate(held_out, by="predicted")
    page = open_page[0](serving(msp))
    choose(page, picture("red"))
    settled(page)
    assert "class 0" in page.inner_text("#says")
    assert "held-out images of class 0" in page.inner_text("#histogram-caption")
    assert page.locator("#explanation").is_hidden()
    assert page.locator("#histogram rect").count() > 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(client, open_page, picture, scheme):
    page = open_page[0](client, width=360, color_scheme=scheme)
    choose(page, picture("noise", (20, 12)))
    settled(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    red = int(page.evaluate("getComputedStyle(document.body).backgroundColor").split("(")[1].split(",")[0])
    assert (red > 200) == (scheme == "light")
    assert page.locator("#histogram svg").evaluate("svg => svg.viewBox.baseVal.width") < 360


def test_every_text_stands_out_from_its_ground(open_page, client, picture):
    """WCAG AA: a contrast of 4.5, in both schemes, accepted and flagged."""
    script = Path(__file__).with_name("contrast.js").read_text()
    for scheme in ("light", "dark"):
        page = open_page[0](client, color_scheme=scheme)
        for colour in ("noise", "blue"):
            choose(page, picture(colour))
            settled(page)
            assert page.evaluate(script) == []


def test_the_page_is_small_and_whole(client):
    total = 0
    for path in ("/", "/page.css", "/page.js", "/charts.js", "/icon.svg"):
        answer = client.get(path)
        assert answer.status_code == 200
        total += len(answer.content)
    assert total < 40_000
    assert "http" not in client.get("/").text
