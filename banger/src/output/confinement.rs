//! What confines a VMM, in words.

use banger_vmm::{Confinement, Gap};

/// The mechanisms that the kernel has, and what they leave open.
pub(crate) fn describe(confinement: &Confinement) -> String {
    let landlock = confinement.landlock_abi.map(|abi| format!(", Landlock (version {abi} of its interface)"));
    let namespaces: Vec<_> = confinement.namespaces.iter().map(|namespace| namespace.name()).collect();
    let namespaces = (!namespaces.is_empty()).then(|| format!(", namespaces ({})", namespaces.join(", ")));
    let user = confinement.user.map(|user| format!(", the jailer (user id {user})")).unwrap_or_default();
    let mechanisms = format!("seccomp{}{}{user}", landlock.unwrap_or_default(), namespaces.unwrap_or_default());
    let open: Vec<_> = confinement.missing.iter().map(|gap| left_open(*gap)).collect();
    if open.is_empty() { mechanisms } else { format!("{mechanisms}; not kept from: {}", open.join(", ")) }
}

/// What a VMM may do where the kernel has this gap.
fn left_open(gap: Gap) -> &'static str {
    match gap {
        Gap::Files => "reading and writing your files (needs Landlock, of Linux 5.13)",
        Gap::Signals => "ending your other processes (needs Linux 6.12)",
        Gap::FileNames => "seeing names and sizes of your files (needs a mount namespace)",
        Gap::Processes => "seeing which other processes run (needs a pid namespace)",
        Gap::UnixSockets => "connecting to your services by Unix sockets (needs mount and network namespaces)",
    }
}

#[cfg(test)]
mod tests {
    use banger_vmm::Namespace;

    use super::*;

    #[test]
    fn description_names_confinement_gaps() {
        let of = |landlock_abi, missing| describe(&Confinement { landlock_abi, missing, ..Confinement::default() });
        assert_eq!(of(Some(7), vec![]), "seccomp, Landlock (version 7 of its interface)");
        let none = of(None, vec![Gap::Files, Gap::Signals]);
        assert!(none.starts_with("seccomp; not kept from: reading and writing your files"), "{none}");
        let namespaces = vec![Namespace::User, Namespace::Pid];
        let partly = describe(&Confinement {
            landlock_abi: Some(6),
            namespaces,
            missing: vec![Gap::FileNames],
            ..Confinement::default()
        });
        let expected =
            "seccomp, Landlock (version 6 of its interface), namespaces (user, pid); not kept from: seeing names";
        assert!(partly.starts_with(expected), "{partly}");
        let jailed = describe(&Confinement { user: Some(990), ..Confinement::default() });
        assert_eq!(jailed, "seccomp, the jailer (user id 990)");
    }
}
