//! The ways to boot a VM on this host, the best one first.

use std::rc::Rc;
use std::time::Duration;

use super::blocking;
use crate::backend::Backend;
use crate::error::Failure;
use crate::kvm::{Accelerator, AcceleratorChoice, KvmSupport};
use crate::record::BackendChoice;

/// How long the first guest under KVM since the host booted may take.
const FIRST_KVM_BOOT: Duration = Duration::from_secs(10);

/// One way to boot.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) backend: Rc<dyn Backend>,
    pub(super) accelerator: Accelerator,
    /// Taken to see whether KVM works: if it fails, the next way is taken.
    pub(super) is_trial: bool,
    /// Why it is not under KVM, if it is not and nobody asked for that.
    pub(super) fallback: Option<String>,
    /// Why it is not Firecracker under KVM, if it is not and nobody asked for that.
    pub(super) reason: Option<String>,
}

impl Way {
    /// How long the guest may take until its agent answers. `limit` is the user's.
    pub(super) fn limit(&self, limit: Option<Duration>) -> Duration {
        let limit = limit.unwrap_or_else(|| self.backend.boot_policy(self.accelerator).limit);
        if self.is_trial { limit.min(FIRST_KVM_BOOT) } else { limit }
    }
}

/// What is known of KVM, where that decides anything. `support` may block.
pub(super) async fn kvm_support(
    choice: AcceleratorChoice,
    support: impl FnOnce() -> KvmSupport + Send + 'static,
) -> KvmSupport {
    match choice {
        AcceleratorChoice::Auto => blocking(support).await,
        AcceleratorChoice::Kvm | AcceleratorChoice::Tcg => KvmSupport::Unknown,
    }
}

/// What the user wants.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) backend: BackendChoice,
    pub(super) accelerator: AcceleratorChoice,
}

/// A backend, or why it cannot run the VM.
pub(super) type Found = Result<Rc<dyn Backend>, Failure>;

/// The ways that fulfil what is wanted: at least one. A backend is looked for only if it may be used.
///
/// # Errors
/// Why there is none.
pub(super) fn ways(
    wanted: Wanted,
    kvm: KvmSupport,
    firecracker: impl FnOnce() -> Found,
    qemu: impl FnOnce() -> Found,
) -> Result<Vec<Way>, Failure> {
    let (is_trial, problem) = match (wanted.accelerator, kvm) {
        (AcceleratorChoice::Kvm, _) | (AcceleratorChoice::Auto, KvmSupport::Works) => (false, None),
        (AcceleratorChoice::Auto, KvmSupport::Unknown) => (true, None),
        (AcceleratorChoice::Auto, KvmSupport::Unusable(problem)) => (false, Some(problem)),
        (AcceleratorChoice::Tcg, _) => (false, None),
    };
    let has_kvm = wanted.accelerator != AcceleratorChoice::Tcg && problem.is_none();
    let under_kvm =
        |backend, is_trial, reason| Way { backend, accelerator: Accelerator::Kvm, is_trial, fallback: None, reason };
    let mut ways = Vec::new();
    let mut reason = problem.as_ref().map(|problem| format!("KVM does not work here: {problem}"));
    match wanted.backend {
        BackendChoice::Firecracker if !has_kvm => return Err(without_kvm(problem)),
        BackendChoice::Firecracker => return Ok(vec![under_kvm(firecracker()?, false, None)]),
        BackendChoice::Auto if has_kvm => match firecracker() {
            Ok(backend) => ways.push(under_kvm(backend, is_trial, None)),
            Err(failure) => reason = Some(failure.message),
        },
        BackendChoice::Auto => {}
        BackendChoice::Qemu => reason = None,
    }
    match qemu() {
        Ok(backend) => {
            if has_kvm {
                let is_trial = is_trial && wanted.accelerator != AcceleratorChoice::Kvm;
                ways.push(under_kvm(Rc::clone(&backend), is_trial, reason.clone()));
            }
            if wanted.accelerator != AcceleratorChoice::Kvm {
                let accelerator = Accelerator::Tcg;
                ways.push(Way { backend, accelerator, is_trial: false, fallback: problem, reason });
            }
        }
        Err(failure) if ways.is_empty() => return Err(failure),
        // Nothing comes after Firecracker, so there is nothing to try out.
        Err(_) => ways.iter_mut().for_each(|way| way.is_trial = false),
    }
    Ok(ways)
}

/// The refusal to run Firecracker without KVM.
fn without_kvm(problem: Option<String>) -> Failure {
    match problem {
        Some(problem) => Failure::new(format!("Firecracker needs KVM, which does not work here: {problem}")).with_hint(
            "use QEMU, which is slower without KVM: `--backend qemu`, or `banger config set backend auto`\n\
                 for how to get KVM: banger doctor",
        ),
        None => Failure::new("Firecracker needs KVM, and TCG is forced")
            .with_hint("choose one: `--backend qemu`, or leave out BANGER_ACCELERATOR=tcg"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use futures::future::LocalBoxFuture;

    use super::*;
    use crate::backend::{BootPolicy, Launched, VmDefinition};
    use crate::record::BackendKind;

    struct Named(BackendKind);

    impl Backend for Named {
        fn kind(&self) -> BackendKind {
            self.0
        }

        fn name(&self) -> &'static str {
            "named"
        }

        fn boot_policy(&self, accelerator: Accelerator) -> BootPolicy {
            let limit = Duration::from_secs(if accelerator == Accelerator::Kvm { 30 } else { 120 });
            BootPolicy { limit, retry_after: None }
        }

        fn check(&self, _: &VmDefinition) -> Result<(), Failure> {
            Ok(())
        }

        fn launch<'a>(
            &'a self,
            _: &'a VmDefinition,
            _: Accelerator,
            _: Option<&'a Path>,
        ) -> LocalBoxFuture<'a, Result<Launched, Failure>> {
            unreachable!("nothing is started here")
        }
    }

    fn found(kind: BackendKind) -> Found {
        Ok(Rc::new(Named(kind)))
    }

    fn missing(name: &str) -> Found {
        Err(Failure::new(format!("{name} is missing")))
    }

    fn chosen(
        backend: BackendChoice,
        accelerator: AcceleratorChoice,
        kvm: KvmSupport,
        firecracker: Found,
        qemu: Found,
    ) -> Result<Vec<Way>, String> {
        ways(Wanted { backend, accelerator }, kvm, || firecracker, || qemu).map_err(|failure| failure.message)
    }

    /// Each way's backend and accelerator, and whether it is a trial.
    fn shape(ways: &[Way]) -> Vec<(BackendKind, Accelerator, bool)> {
        ways.iter().map(|way| (way.backend.kind(), way.accelerator, way.is_trial)).collect()
    }

    const AUTO: (BackendChoice, AcceleratorChoice) = (BackendChoice::Auto, AcceleratorChoice::Auto);
    use Accelerator::{Kvm, Tcg};
    use BackendKind::{Firecracker, Qemu};

    #[test]
    fn firecracker_comes_first_where_kvm_works() {
        let ways = chosen(AUTO.0, AUTO.1, KvmSupport::Works, found(Firecracker), found(Qemu)).unwrap();
        assert_eq!(shape(&ways), [(Firecracker, Kvm, false), (Qemu, Kvm, false), (Qemu, Tcg, false)]);
        assert!(ways.iter().all(|way| way.reason.is_none() && way.fallback.is_none()));
        assert_eq!(ways[0].limit(None), Duration::from_secs(30));
    }

    #[test]
    fn kvm_that_nobody_has_tried_is_tried() {
        let ways = chosen(AUTO.0, AUTO.1, KvmSupport::Unknown, found(Firecracker), found(Qemu)).unwrap();
        assert_eq!(shape(&ways), [(Firecracker, Kvm, true), (Qemu, Kvm, true), (Qemu, Tcg, false)]);
        assert_eq!(ways[0].limit(None), FIRST_KVM_BOOT);
        assert_eq!(ways[0].limit(Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(ways[2].limit(None), Duration::from_secs(120));
        // Without another way, it is no trial.
        let alone = chosen(AUTO.0, AUTO.1, KvmSupport::Unknown, found(Firecracker), missing("QEMU")).unwrap();
        assert_eq!(shape(&alone), [(Firecracker, Kvm, false)]);
    }

    #[test]
    fn ways_without_firecracker_say_why() {
        let ways = chosen(AUTO.0, AUTO.1, KvmSupport::Works, missing("Firecracker"), found(Qemu)).unwrap();
        assert_eq!(shape(&ways), [(Qemu, Kvm, false), (Qemu, Tcg, false)]);
        assert_eq!(ways[0].reason.as_deref(), Some("Firecracker is missing"));
        assert_eq!(ways[0].fallback, None);

        let unusable = || KvmSupport::Unusable("no".into());
        let never = || -> Found { unreachable!("without KVM nobody looks for Firecracker") };
        let wanted = Wanted { backend: AUTO.0, accelerator: AUTO.1 };
        let ways = super::ways(wanted, unusable(), never, || found(Qemu)).unwrap();
        assert_eq!(shape(&ways), [(Qemu, Tcg, false)]);
        assert_eq!(ways[0].fallback.as_deref(), Some("no"));
        assert!(ways[0].reason.as_deref().unwrap().ends_with("does not work here: no"));
    }

    #[tokio::test]
    async fn kvm_probe_does_not_block_the_runtime() {
        let (sender, receiver) = std::sync::mpsc::channel();
        // A probe takes as long as the other tasks of this thread like.
        let support = move || match receiver.recv_timeout(Duration::from_secs(10)) {
            Ok(()) => KvmSupport::Works,
            Err(error) => KvmSupport::Unusable(error.to_string()),
        };
        tokio::spawn(async move { sender.send(()) });
        assert_eq!(kvm_support(AcceleratorChoice::Auto, support).await, KvmSupport::Works);
        let never = || unreachable!("whoever forces an accelerator gets it");
        assert_eq!(kvm_support(AcceleratorChoice::Kvm, never).await, KvmSupport::Unknown);
    }

    #[test]
    fn forced_backend_is_used_or_an_error() {
        let choice = BackendChoice::Firecracker;
        let only = chosen(choice, AUTO.1, KvmSupport::Unknown, found(Firecracker), found(Qemu)).unwrap();
        assert_eq!(shape(&only), [(Firecracker, Kvm, false)]);
        let error =
            |accelerator, kvm, firecracker| chosen(choice, accelerator, kvm, firecracker, found(Qemu)).err().unwrap();
        assert_eq!(error(AUTO.1, KvmSupport::Works, missing("Firecracker")), "Firecracker is missing");
        assert!(error(AUTO.1, KvmSupport::Unusable("no".into()), found(Firecracker)).ends_with("here: no"));
        assert!(error(AcceleratorChoice::Tcg, KvmSupport::Works, found(Firecracker)).contains("TCG is forced"));

        let ways = chosen(BackendChoice::Qemu, AUTO.1, KvmSupport::Works, found(Firecracker), found(Qemu)).unwrap();
        assert_eq!(shape(&ways), [(Qemu, Kvm, false), (Qemu, Tcg, false)]);
        assert!(ways.iter().all(|way| way.reason.is_none()));
    }

    #[test]
    fn forced_accelerator_is_used_or_an_error() {
        let with = |accelerator| chosen(AUTO.0, accelerator, KvmSupport::Unknown, found(Firecracker), found(Qemu));
        let kvm = with(AcceleratorChoice::Kvm).unwrap();
        assert_eq!(shape(&kvm), [(Firecracker, Kvm, false), (Qemu, Kvm, false)]);
        let tcg = with(AcceleratorChoice::Tcg).unwrap();
        assert_eq!(shape(&tcg), [(Qemu, Tcg, false)]);
        assert_eq!((&tcg[0].fallback, &tcg[0].reason), (&None, &None));
        let none = chosen(AUTO.0, AUTO.1, KvmSupport::Works, missing("Firecracker"), missing("QEMU"));
        assert_eq!(none.err().unwrap(), "QEMU is missing");
    }
}
