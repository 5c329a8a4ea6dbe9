"""What a person does to look at a run in MLflow's UI, with a picture of every page."""

from __future__ import annotations

from pathlib import Path

from tests.browser import Browser

ASSISTANT = "//*[contains(@data-component-id, 'assistant.chat_panel.close')]"  # opens by itself at the first visit
CURVES = "document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path.js-line').length >= {count}"
CHARTS = "document.querySelector('.js-plotly-plot .main-svg')"  # a metric with one value has no curve
UNFOLD = "button[contains(@data-component-id, 'runnamecellrenderer')]"
RESULTS_FRAME = "//iframe[@id='html']"
LOADED = "[...document.images].some(i => i.alt.endsWith({name!r}) && i.complete && i.naturalWidth >= {width})"


def open_experiment(browser: Browser, address: str, experiment: str) -> None:
    browser.open(f"{address}/#/experiments")
    browser.click(ASSISTANT)
    browser.click("//*[normalize-space(text())='Model training']")  # the UI begins with prompts and agents
    browser.click(f"//a[normalize-space()='{experiment}']")
    browser.click("//a[normalize-space()='Runs']")
    browser.find("//*[normalize-space()='Run Name']")


def open_run(browser: Browser, name: str) -> None:
    browser.click(f"//a[normalize-space()='{name}']")
    browser.find(f"//h2[normalize-space()='{name}']")
    browser.find("//*[normalize-space()='About this run']")


def open_metrics(browser: Browser, key: str, count: int) -> None:
    """Open the tab of charts; it is open when a metric has its chart and ``count`` curves are drawn."""
    open_tab(browser, "Model metrics")
    browser.find(f"//*[normalize-space()='{key}']")
    browser.wait_for_script(CURVES.format(count=count))


def open_system_metrics(browser: Browser, section: str) -> None:
    open_tab(browser, "System metrics")
    browser.find(f"//*[starts-with(normalize-space(), '{section}')]")
    browser.wait_for_script(CHARTS)


def open_picture(browser: Browser, folder: str, name: str, width: int = 1) -> None:
    """Open a picture among the artifacts; it is open when at least ``width`` pixels of it are there."""
    open_tab(browser, "Artifacts")
    open_folder(browser, folder, name)
    browser.click(f"//*[normalize-space(text())='{name}']")
    browser.wait_for_script(LOADED.format(name=name, width=width))


def open_best_child(browser: Browser, number: int, name: str) -> None:
    """Follow the link to the best child in a sweep's description, to a tab of its own."""
    browser.find("//*[normalize-space()='Child runs']")
    best = "//strong[starts-with(normalize-space(), 'Best:')]"
    browser.click_to_new_tab(f"{best}//a[normalize-space()='child {number}']")
    browser.find(f"//h2[normalize-space()='{name}']")


def open_results(browser: Browser, row: str) -> None:
    """Open the page of a sweep's results; it is open when the row that is marked as the best is there."""
    open_tab(browser, "Artifacts")
    open_folder(browser, "sweep", "results.html")
    browser.click("//*[normalize-space(text())='results.html']")
    browser.find_in_frame(RESULTS_FRAME, f"//tr[@class='best'][starts-with(normalize-space(), '{row}')]")


def open_folder(browser: Browser, folder: str, inside: str) -> None:
    """Open a folder among the artifacts, unless what is inside can be seen already."""
    browser.click_until(f"//*[normalize-space(text())='{folder}']", f"//*[normalize-space(text())='{inside}']")


def open_children(browser: Browser, sweep: str, child: str) -> None:
    """Unfold a sweep in the table of runs; it is unfolded when a child is there."""
    browser.click(f"//*[@role='gridcell'][.//a[normalize-space()='{sweep}']]//{UNFOLD}")
    browser.find(f"//*[@role='gridcell']//a[normalize-space()='{child}']")


def open_tab(browser: Browser, name: str) -> None:
    browser.click(f"//button[@role='tab'][normalize-space()='{name}']")
    browser.find(f"//button[@role='tab'][@aria-selected='true'][normalize-space()='{name}']")


def take_screenshots(browser: Browser, address: str, experiment: str, run: str, folder: Path) -> list[Path]:
    """Take mlflow_experiment.png, mlflow_run.png (overview), mlflow_metrics.png and mlflow_system.png of a run."""
    open_experiment(browser, address, experiment)
    pictures = [browser.screenshot(folder / "mlflow_experiment.png")]
    open_run(browser, run)
    pictures.append(browser.screenshot(folder / "mlflow_run.png"))
    open_metrics(browser, "loss", 2)
    pictures.append(browser.screenshot(folder / "mlflow_metrics.png"))
    open_system_metrics(browser, "system/")
    pictures.append(browser.screenshot(folder / "mlflow_system.png"))
    return pictures


def take_sweep_screenshots(
    browser: Browser, address: str, experiment: str, sweep: str, child: str, folder: Path
) -> list[Path]:
    """Take mlflow_sweep_children.png, mlflow_sweep.png (overview) and mlflow_sweep_parallel.png of a sweep."""
    open_experiment(browser, address, experiment)
    open_children(browser, sweep, child)
    pictures = [browser.screenshot(folder / "mlflow_sweep_children.png")]
    open_run(browser, sweep)
    browser.find("//*[normalize-space()='Child runs']")
    browser.click("//button[normalize-space()='Show more']")
    pictures.append(browser.screenshot(folder / "mlflow_sweep.png"))
    open_picture(browser, "sweep", "parallel_coordinates.png")
    pictures.append(browser.screenshot(folder / "mlflow_sweep_parallel.png"))
    return pictures
