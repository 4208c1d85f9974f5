import pytest
import torch

from family_contract import FEW, OTHERS, STEPS, FamilyContract, X, stirred


@pytest.mark.parametrize("family", OTHERS)
class TestFamily(FamilyContract):
    pass


@pytest.mark.parametrize("family", [*FEW, "residual-kan", "residual-mlp"])
@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated")
def test_an_exported_model_does_what_it_did(family):
    denoiser = stirred(family).eval()
    exported = torch.export.export(denoiser, (X, STEPS), {"return_dict": False}).module()
    plain = {"return_dict": False}
    torch.testing.assert_close(exported(X, STEPS, **plain), denoiser(X, STEPS, **plain))


# Others differ from these by their basis, activation or inputs; tests/kan compiles every basis.
@pytest.mark.parametrize("family", [*FEW, "residual-kan", "residual-mlp"])
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_does_what_it_did_and_is_compiled_once(family):
    torch.compiler.reset()
    denoiser = stirred(family)
    compiled = torch.compile(denoiser, fullgraph=True, backend="aot_eager", dynamic=True)
    torch.testing.assert_close(compiled(X, STEPS).sample, denoiser(X, STEPS).sample)
    more, steps = torch.cat([X, X.flip(0)]), torch.cat([STEPS, STEPS])
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(compiled(more, steps).sample, denoiser(more, steps).sample)
    for other in (STEPS + 0.5, torch.tensor(3)):  # compiled for these, too
        torch.testing.assert_close(compiled(X, other).sample, denoiser(X, other).sample)
    torch.compiler.reset()
