"""The files of one trial."""

from pathlib import Path

from attnsearch.files import temporary_path
from attnsearch.store.layout import StudyLayout


def relative(layout: StudyLayout, path: Path) -> str:
    return path.relative_to(layout.root).as_posix()


def test_trial_files_bear_the_documented_names(layout: StudyLayout) -> None:
    trial = layout.trial(7)
    archive = trial.archive("val")
    paths = [trial.config, trial.epochs_csv, trial.log, trial.best, trial.resume(2)]
    paths += [archive.maps, archive.norms, archive.saliency, archive.images]
    scores = trial.scores("val")
    paths += [scores.table, scores.curves, scores.about, scores.journal]

    assert relative(layout, trial.directory) == "CUB/br_npa/trials/00007"
    assert [path.name for path in paths] == [
        *("config.yaml", "epochs.csv", "log.txt", "best.safetensors", "resume.2.pt"),
        *("attMaps_val.npy", "norm_val.npy", "saliency_val.npy", "images_val.csv"),
        *("scores_val.csv", "curves_val.npy", "scores_val.json", "scores_val.part"),
    ]


def test_published_files_bear_the_names_of_the_first_tool(layout: StudyLayout) -> None:
    published = layout.published(12)
    archive = published.archive()

    assert relative(layout, published.model_csv("val")) == "CUB/modelbr_npa_epoch12_val.csv"
    assert relative(layout, archive.maps) == "CUB/attMapsbr_npa_epoch12_test.npy"
    assert relative(layout, archive.norms) == "CUB/normbr_npa_epoch12_test.npy"
    assert relative(layout, archive.images) == "CUB/imagesbr_npa_epoch12_test.csv"
    assert relative(layout, layout.curves_npy("Del")) == "CUB/attMetrDel_br_npa.npy"
    assert layout.shared.areas_csv("Add", per_image=True).name == "attMetrics_Add_pop.csv"


def test_resumes_are_those_that_exist_latest_attempt_first(layout: StudyLayout) -> None:
    trial = layout.trial(0)
    assert trial.resumes() == {}
    trial.directory.mkdir(parents=True)
    for attempt in (2, 10, 1):
        trial.resume(attempt).touch()
    temporary_path(trial.resume(11)).touch()

    assert list(trial.resumes().items()) == [(attempt, trial.resume(attempt)) for attempt in (10, 2, 1)]


def test_frames_of_the_film_are_those_of_epochs(layout: StudyLayout) -> None:
    trial = layout.trial(0)
    assert trial.film_epochs() == []
    trial.film_images.parent.mkdir(parents=True)
    for epoch in (2, 10, 1):
        trial.film_frame(epoch).touch()
    for path in (trial.film_images, temporary_path(trial.film_frame(3)), trial.film_frame(0)):
        path.touch()
    assert relative(layout, trial.film_frame(10)) == "CUB/br_npa/trials/00000/film/10.npy"
    assert trial.film_epochs() == [1, 2, 10]
