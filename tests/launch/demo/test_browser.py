"""The demo's page in a real browser: typed into, clicked and walked through by keys, it shows what the server says, as text, without an error on the console."""

import re
import shutil

import pytest

from bert_jax.interop.tasks import Task
from tests.launch.demo.conftest import NAMED, serving

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")]
MARKUP = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        found = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser):
    """address, width -> the page, ready. At the end: nothing was said on the console, and nothing asked of anyone else."""
    said, asked, contexts = [], [], []

    def make(address: str, width: int = 1280):
        contexts.append(browser.new_context(viewport={"width": width, "height": 800}))
        page = contexts[-1].new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.wait_for_selector("#compare:not([hidden])")
        return page

    yield make
    for context in contexts:
        context.close()
    assert [words for words in said if "400 (Bad Request)" not in words] == []  # Chromium's own note of a refusal
    assert {re.sub(r":\d+/.*", "", url) for url in asked} == {"http://127.0.0.1"}


def colours(page) -> list[str]:
    return page.eval_on_selector_all("#tokens .piece", "pieces => pieces.map(piece => getComputedStyle(piece).backgroundColor)")


def test_a_sentence_is_filled(served, opened):
    page = opened(served.server.address)
    assert page.title() == f"{served.path.name}: bert-jax demo"
    page.get_by_label("A sentence with [MASK]").fill("the [MASK] of a [MASK]")
    page.keyboard.press("Enter")
    page.wait_for_selector("#predictions .bar")
    lists = page.locator("#predictions .bars")
    expected = served.ask("/api/fill-mask", {"text": "the [MASK] of a [MASK]"})[1]["masks"]
    assert lists.count() == 2
    for index, slot in enumerate(expected):
        assert lists.nth(index).locator(".token").all_text_contents() == [one["token"] for one in slot]
    second, box = lists.nth(1).get_by_role("button").nth(2), page.locator("#fill-text")
    second.click()
    chosen = expected[1][2]
    assert box.input_value() == f"the [MASK] of a{'' if chosen['continues'] else ' '}{chosen['text']}"
    assert second.get_attribute("aria-pressed") == "true" and "100%" not in lists.nth(1).locator(".share").all_text_contents()
    second.click()  # and takes it out again
    assert box.input_value() == "the [MASK] of a [MASK]"
    box.fill("nothing to fill")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#fill_mask .status.wrong")
    assert "no [MASK]" in page.locator("#fill_mask .status").text_content() and not lists.first.is_visible()
    box.fill("x ")
    page.get_by_role("button", name="Insert [MASK]").click()
    assert box.input_value() == "x [MASK]"


def test_a_head_is_chosen_and_tokens_are_coloured(served, opened):
    page = opened(served.server.address)
    page.locator("#attention-text").fill("the module is imported")
    page.get_by_role("button", name="Show attention").click()
    page.wait_for_selector("#tokens .piece")
    mean = colours(page)
    with page.expect_response("**/api/attention"):
        page.get_by_label("layer 2, head 3:").click()
    page.wait_for_selector(".cell[aria-pressed=true]")
    assert (page.get_by_label("Layer", exact=True).input_value(), page.get_by_label("Head", exact=True).input_value()) == ("2", "3")
    assert len(set(colours(page))) > 3 and colours(page) != mean
    weights = served.ask("/api/attention", {"text": "the module is imported", "layer": 2, "head": 3})[1]["weights"]
    page.locator("#tokens .piece").nth(2).click()
    before = colours(page)
    shares = [float(text.rstrip("%")) for text in page.locator("#tokens .share").all_text_contents()]
    assert shares == pytest.approx([100 * weight for weight in weights[2]], abs=0.51)
    strongest = max(range(len(shares)), key=lambda index: weights[2][index])
    assert page.locator("#tokens .text").nth(strongest).text_content() in page.locator("#attended-summary").text_content()
    page.keyboard.press("ArrowRight")  # the next token
    assert page.locator("#tokens .piece").nth(3).get_attribute("aria-pressed") == "true" and colours(page) != before
    with page.expect_response("**/api/attention"):
        page.get_by_label("Head", exact=True).select_option("1")
    page.wait_for_function("document.getElementById('attended-summary').textContent.includes('head 1)')")
    assert page.locator("#tokens [tabindex='0']").count() == page.locator("#grid [tabindex='0']").count() == 1


def test_sentences_are_compared_and_markup_is_text(served, opened):
    page = opened(served.server.address)
    lines = [MARKUP, "a module is imported", "a module was imported"]
    page.get_by_label("Sentences, one in each line").fill("\n".join(lines))
    page.get_by_role("button", name="Compare").click()
    page.wait_for_selector(".matrix")
    answer = served.ask("/api/compare", {"lines": lines})[1]
    cells = page.locator(".matrix td:not(:empty)").all_text_contents()
    assert cells == [f"{cosine:.2f}" for row in answer["cosines"] for cosine in row]
    first, second = (number + 1 for number in answer["nearest"])
    assert f"{first} and {second}" in page.locator(".nearest").text_content()
    assert page.locator(".matrix .line").first.text_content() == MARKUP
    page.locator("#attention-text").fill(MARKUP)
    page.get_by_role("button", name="Show attention").click()
    page.wait_for_selector("#tokens .piece")
    page.locator("#fill-text").fill(f"{MARKUP} [MASK]")
    page.get_by_role("button", name="Predict").click()
    page.wait_for_selector("#predictions .bar")
    assert page.evaluate("window.hacked") is None and page.locator("main img, main script").count() == 0


def test_a_narrow_page_has_no_sideways_scroll(served, opened):
    page = opened(served.server.address, 420)
    for section in ("fill_mask", "attention", "compare"):
        page.locator(f"#{section} [type=submit]").click()
    page.wait_for_selector("#predictions .bar")
    page.wait_for_selector("#tokens .piece")
    page.wait_for_selector(".matrix")
    assert page.evaluate("document.documentElement.scrollWidth") <= 420


def test_a_part_that_the_model_lacks_is_a_line(export, opened):
    with serving(export("bert", NAMED)) as found:
        page = opened(found.server.address)
        assert "fine-tuned for classification" in page.locator("#fill_mask .missing").text_content()
        assert page.locator("#fill_mask form").count() == 0 and not page.locator("#replaced").is_visible()
        page.locator("#classify-text").fill("a module")
        page.get_by_role("button", name="Classify").click()
        page.wait_for_selector("#classes .bar")
        assert set(page.locator("#classes .token").all_text_contents()) == set(NAMED.labels)


def test_a_model_that_may_be_of_pairs_has_a_box_for_the_second_text(export, opened):
    with serving(export("bert", Task("regression", 1, "cls", 0.0, None, 64))) as found:
        page = opened(found.server.address)
        for pair in ("", "an assertion fails"):
            page.locator("#classify-text").fill("a module")
            page.get_by_label("Second text, if the model was fine-tuned on pairs").fill(pair)
            page.get_by_role("button", name="Classify").click()
            expected = found.ask("/api/classify", {"text": "a module", "pair": pair})[1]["score"]
            page.wait_for_function("score => document.querySelector('#classes .score')?.textContent === score", arg=f"{expected:.3f}")
