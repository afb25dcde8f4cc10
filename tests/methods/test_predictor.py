"""Kinds of predictors: what is kept is restored as what it was, and what would not be is refused."""

import copy

import pytest
import torch
from hooks_kit import METHODS, Adapting, Centred, Deep, Ensemble, HiddenLayer, Pair
from methods_kit import encoder, finished, images, inputs_of, make, run

from robustft.methods.classifier import Classifier
from robustft.methods.ft import FT
from robustft.methods.predictor import Predictor, PredictorError, restore

pytestmark = pytest.mark.computes


@pytest.mark.parametrize("method, kind", [(Ensemble, Pair), (Deep, HiddenLayer), (Adapting, Centred), (FT, Classifier)])
@torch.no_grad()
def test_it_is_restored_as_the_kind_that_it_was(method, kind, tmp_path):
    with torch.enable_grad():
        fitted = run(method(), tmp_path)
    kept = finished(fitted)
    again = restore(encoder(seed=1), kept["tensors"], kept["meta"])
    assert type(again) is kind and not again.training
    assert torch.equal(again(images()), fitted.classifier(images()))
    assert again.meta() == kept["meta"] and again.adapts == (kind is Centred)


def test_a_classifiers_file_is_what_it_always_was(tmp_path):
    assert run(FT(), tmp_path).classifier.meta() == {"backbone": "test-vit", "normalise": "true"}


@torch.no_grad()
def test_an_ensemble_of_two_towers_is_the_mean_of_their_probabilities(tmp_path):
    with torch.enable_grad():
        ensemble = run(Ensemble(), tmp_path / "pair").classifier
        ends = [run(method, tmp_path / str(i)).classifier for i, method in enumerate([make("ft"), make("zero_shot")])]
    mean = sum(end(images()).double().softmax(dim=1) for end in ends) / 2
    torch.testing.assert_close(ensemble(images()).double().softmax(dim=1), mean, atol=1e-6, rtol=0)


def test_a_subclass_without_a_kind_of_its_own_is_refused_when_it_is_written():
    with pytest.raises(TypeError, match=r"must have a kind, or it is restored as 'classifier'; write class Mine\(Cla"):

        class Mine(Classifier):
            pass


def test_one_kind_is_one_class():
    with pytest.raises(PredictorError, match="predictor kind 'classifier' is registered twice, by robustft.methods"):

        class Mine(Predictor, kind="classifier"):
            pass


def test_one_without_a_kind_cannot_be_kept():
    class Mine(Predictor):
        pass

    with pytest.raises(PredictorError, match=r"Mine: must have a kind to be kept; write class Mine\(Predictor, kind="):
        Mine(encoder()).meta()


def test_a_kind_that_nobody_defines_is_one_sentence():
    with pytest.raises(PredictorError, match="are of kind 'gone', which nothing here defines .*; load the file"):
        restore(encoder(), {}, {"backbone": "test-vit", "kind": "gone"})


def test_weights_of_another_shape_are_one_sentence(tmp_path):
    kept = finished(run(Deep(), tmp_path))
    with pytest.raises(ValueError, match="test_hidden_layer weights do not fit backbone 'test-vit'"):
        restore(encoder(), kept["tensors"], kept["meta"] | {"classes": "4"})


@pytest.mark.parametrize("name", ["model_soup", "wise_ft"])
def test_what_interpolates_classifiers_refuses_another_kind(name, tmp_path):
    method = make(name)
    inputs = inputs_of(method)
    odd = finished(run(Deep(), tmp_path / "deep"))
    with pytest.raises(ValueError, match="final weights are of kind 'test_hidden_layer', not 'classifier'"):
        run(method, tmp_path / name, inputs=dict.fromkeys(inputs, odd))


def test_every_kind_of_the_kit_is_one_that_a_method_ends_in():
    ends = {Pair: Ensemble, HiddenLayer: Deep, Centred: Adapting}
    assert set(ends.values()) <= set(METHODS.values())
    model = encoder()
    centred = Centred(model, torch.randn(3, model.embed_dim))
    assert copy.deepcopy(centred).adapts and not Classifier(model, centred.weight).adapts
