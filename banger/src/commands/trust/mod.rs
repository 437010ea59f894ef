//! `banger trust`.

mod included;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use banger_agent::protocol::WireBytes;
use banger_vmm::printable;
use serde::Serialize;

use self::included::{Summary, shown};
use crate::config::edit::REPOSITORY_FILE;
use crate::config::{ConfigFile, Owner, TrustStore, git_host, needing_trust, raised_with_trust};
use crate::error::{CommandError, ErrorKind};
use crate::git::{self, Host, INCLUDE_FILE, IncludeFile, IncludePolicy, OutsidePolicy, Workspace};
use crate::host::paths::{Paths, user_config};
use crate::output::command_output::{CommandOutput, Message, Verbosity};
use crate::output::table::table;
use crate::output::ui::Ui;

/// What `banger trust` is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrustAction {
    /// Show what needs trust, ask a user at a terminal, and trust it. With nobody to ask, the
    /// ignored files that `.worktreeinclude` names are not trusted.
    Trust,
    /// Trust it without a question.
    TrustUnasked,
    /// List all that needs trust, and change nothing.
    List,
    /// End trust.
    Revoke,
}

/// Whether a repository is trusted now, and with what.
#[derive(Clone, Debug, Serialize)]
pub struct RepositoryTrust {
    /// The repository's `banger.toml`, which need not exist.
    pub file: String,
    /// Whether the repository is trusted as it is now.
    pub trusted: bool,
    /// The keys of `file` for which trust makes a difference.
    pub keys: Vec<&'static str>,
    /// The rules of its `.worktreeinclude`.
    pub rules: Vec<WireBytes>,
    /// Ignored files that its `.worktreeinclude` names now, and that may travel.
    pub included: Vec<WireBytes>,
    /// Paths outside of the repository that may be read for it.
    pub outside: Vec<String>,
    /// How the trust came about.
    #[serde(skip)]
    pub decision: TrustDecision,
}

/// What `banger trust` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustDecision {
    /// The repository at `root` is not trusted any more.
    Revoked {
        /// The root of the repository's workspace.
        root: PathBuf,
        /// Whether it was trusted before.
        was_trusted: bool,
    },
    /// There is nothing that needs trust.
    NothingToTrust,
    /// What needs trust is listed: keys and values, such as `memory = 8G`, are these.
    Listed {
        /// Keys and values of `banger.toml`.
        values: Vec<String>,
    },
    /// The user at the terminal said no.
    Declined,
    /// The repository is trusted.
    Trusted {
        /// Keys and values, such as `memory = 8G`, that trust makes a difference for; none: there
        /// is no `banger.toml`.
        values: Option<Vec<String>>,
        /// The repository's `.worktreeinclude`; none: there is none.
        include: Option<PathBuf>,
    },
}

/// What in a repository needs trust, read once: what is shown is what is trusted.
struct Subject {
    workspace: Workspace,
    repo: Option<ConfigFile>,
    keys: Vec<&'static str>,
    include: Option<IncludeFile>,
    included: Vec<WireBytes>,
    outside: Vec<git::Outside>,
    /// Why the `.worktreeinclude` counts for nothing, whoever trusts it; none: it does count.
    include_error: Option<git::GitError>,
}

/// What the user says of a [`Subject`].
enum Consent {
    All,
    Nothing,
    /// There is nobody to ask, and the ignored files need an answer. All else does not.
    AllButInclude,
}

/// Trusts the repository around `here` as it is now, lists what that would be, or ends trust. Trust
/// is for what its `banger.toml` names of this machine, for the ignored files that its
/// `.worktreeinclude` names, and for the places outside that git's files lead to. About the latter
/// two the user at the terminal is asked, once they were shown. A `.worktreeinclude` that exceeds a
/// limit cannot be trusted.
///
/// # Errors
/// If there is nobody to ask about `.worktreeinclude`: all else is trusted then. If `here` is in no
/// repository, the file says what it may not, or trust cannot be written down.
pub fn trust(action: TrustAction, here: &Path, paths: &Paths, ui: &Ui) -> Result<RepositoryTrust, CommandError> {
    // Then a listing tells what trust would change.
    let host = Host { outside: OutsidePolicy::Collect, include: IncludePolicy::Refuse, ..git_host(paths) };
    let workspace = Workspace::discover(here, host)?;
    let store = TrustStore::new(&paths.data);
    if action == TrustAction::Revoke {
        let root = workspace.root.clone();
        let was_trusted = store.revoke(&root)?;
        return Ok(RepositoryTrust::nothing(&root, TrustDecision::Revoked { root: root.clone(), was_trusted }));
    }
    let mut subject = Subject::of(workspace)?;
    if let Some(error) = &subject.include_error {
        ui.warning(&format!("`{INCLUDE_FILE}` is not trusted, and counts for nothing: {error}"));
        error.hint().iter().for_each(|hint| ui.warning(hint));
    }
    if action == TrustAction::Trust && subject.trusts_include(&store) && !ui.asks() {
        // Nothing changes, so there is nothing to ask.
        return subject.record(&store);
    }
    let root = &subject.workspace.root;
    if subject.is_empty() {
        return Ok(RepositoryTrust::nothing(root, TrustDecision::NothingToTrust));
    }
    if action == TrustAction::List {
        let values = subject.values().unwrap_or_default();
        return Ok(subject.answer(subject.is_trusted(&store), TrustDecision::Listed { values }));
    }
    let consent = match action {
        TrustAction::TrustUnasked => Consent::All,
        _ => subject.confirm(ui)?,
    };
    match consent {
        Consent::All => subject.record(&store),
        Consent::Nothing => Ok(RepositoryTrust {
            keys: subject.keys.clone(),
            ..RepositoryTrust::nothing(root, TrustDecision::Declined)
        }),
        Consent::AllButInclude => {
            let include = root.join(INCLUDE_FILE);
            subject.include = None;
            if !subject.is_empty() {
                subject.record(&store)?.print_messages(ui);
            }
            let message = format!("`{}` is not trusted: there is nobody to ask about it", include.display());
            Err(CommandError::new(message)
                .kind(ErrorKind::InputNeeded)
                .hint("to see what it sends to the VM: banger trust --list")
                .hint("to trust it without a question: banger trust --force"))
        }
    }
}

impl Subject {
    fn of(workspace: Workspace) -> Result<Subject, CommandError> {
        let repo = ConfigFile::read(&workspace.root.join(REPOSITORY_FILE), Owner::Repository)?;
        let user = user_config().map(|path| ConfigFile::read(&path, Owner::User)).transpose()?.flatten();
        let mut keys = Vec::new();
        if let Some(repo) = &repo {
            keys = needing_trust(repo, user.as_ref());
            keys.extend(raised_with_trust(repo, user.as_ref()));
        }
        let listing = git::list(&workspace)?;
        let outside = git::outside(&workspace, &listing)?;
        let include = listing.include.filter(|_| listing.include_error.is_none());
        let included = listing.withheld.into_iter().map(|path| WireBytes(path.into_bytes())).collect();
        Ok(Subject { workspace, repo, keys, include, included, outside, include_error: listing.include_error })
    }

    fn is_empty(&self) -> bool {
        self.repo.is_none() && self.outside.is_empty() && self.include.is_none()
    }

    /// Writes down the trust in all of it.
    fn record(&self, store: &TrustStore) -> Result<RepositoryTrust, CommandError> {
        let root = &self.workspace.root;
        let text = self.repo.as_ref().map(|repo| repo.text.as_str());
        let include = self.include.as_ref().map(|include| (&self.workspace.identity, &include.content[..]));
        store.trust(root, text, include, &self.places())?;
        let include = include.map(|_| root.join(INCLUDE_FILE));
        Ok(self.answer(true, TrustDecision::Trusted { values: self.values(), include }))
    }

    fn trusts_include(&self, store: &TrustStore) -> bool {
        let is_trusted = |include: &IncludeFile| store.trusts_include(&self.workspace.identity, &include.content);
        self.include.as_ref().is_some_and(is_trusted)
    }

    /// Shows what the user may not know of, and asks about it. A place is named before it is
    /// allowed: a command names only the first of several.
    fn confirm(&self, ui: &Ui) -> Result<Consent, CommandError> {
        let summary = match &self.include {
            Some(include) if !include.rules.is_empty() => Some(Summary::of(&include.rules, &self.included)),
            _ => None,
        };
        let mut lines: Vec<_> = summary.iter().flat_map(|summary| summary.lines.clone()).collect();
        lines.extend(self.outside.iter().map(|place| place.describe(&self.workspace.root)));
        let question = match (&summary, self.outside.is_empty()) {
            (None, true) => return Ok(Consent::All),
            (None, false) => "Allow banger to read these places into the VM?".to_owned(),
            (Some(summary), true) => format!("Allow {} into the VM?", summary.what),
            (Some(summary), false) => format!("Allow {}, and these places, into the VM?", summary.what),
        };
        match ui.confirm_about(&lines, &question) {
            Ok(true) => Ok(Consent::All),
            Ok(false) => Ok(Consent::Nothing),
            // A script that trusts a repository has decided about all but what git ignores.
            Err(error) if error.kind == ErrorKind::InputNeeded && summary.is_none() => Ok(Consent::All),
            Err(error) if error.kind == ErrorKind::InputNeeded => Ok(Consent::AllButInclude),
            Err(error) => Err(error),
        }
    }

    fn is_trusted(&self, store: &TrustStore) -> bool {
        let root = &self.workspace.root;
        self.repo.as_ref().is_none_or(|repo| store.trusts(root, &repo.text))
            && (self.include.is_none() || self.trusts_include(store))
            && self.include_error.is_none()
            && self.places().is_subset(&store.outside(root))
    }

    fn places(&self) -> BTreeSet<PathBuf> {
        self.outside.iter().map(|place| place.target.clone()).collect()
    }

    fn values(&self) -> Option<Vec<String>> {
        let value = |repo: &ConfigFile| self.keys.iter().map(|key| format!("{key} = {}", repo.values[key])).collect();
        self.repo.as_ref().map(value)
    }

    fn answer(&self, trusted: bool, decision: TrustDecision) -> RepositoryTrust {
        let rules = self.include.iter().flat_map(|include| &include.rules);
        RepositoryTrust {
            trusted,
            keys: self.keys.clone(),
            rules: rules.map(|rule| WireBytes(rule.clone())).collect(),
            included: self.included.clone(),
            outside: self.places().iter().map(|place| place.to_string_lossy().into_owned()).collect(),
            ..RepositoryTrust::nothing(&self.workspace.root, decision)
        }
    }
}

impl RepositoryTrust {
    /// The repository at `root` is not trusted with anything.
    fn nothing(root: &Path, decision: TrustDecision) -> RepositoryTrust {
        RepositoryTrust {
            file: root.join(REPOSITORY_FILE).to_string_lossy().into_owned(),
            trusted: false,
            keys: Vec::new(),
            rules: Vec::new(),
            included: Vec::new(),
            outside: Vec::new(),
            decision,
        }
    }
}

impl CommandOutput for RepositoryTrust {
    fn messages(&self) -> Vec<Message> {
        let file = &self.file;
        let mut messages = Vec::new();
        match &self.decision {
            TrustDecision::Listed { .. } => {}
            TrustDecision::Revoked { root, was_trusted } => {
                let what = if *was_trusted { "is not trusted any more" } else { "was not trusted" };
                messages.push(Message::status(format!("`{}` {what}", root.display())));
                if *was_trusted {
                    messages.push(Message::status(
                        "files that were sent already stay in the VM, until they, or the VM, are deleted there",
                    ));
                }
            }
            TrustDecision::NothingToTrust => messages.push(Message::status(format!(
                "nothing to trust: there is no `{file}` and no `{INCLUDE_FILE}`, and git's files lead to no place outside"
            ))),
            TrustDecision::Declined => messages.push(Message::status("nothing is trusted that was not before")),
            TrustDecision::Trusted { values, include } => {
                if let Some(values) = values {
                    let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                    let what = match &values[..] {
                        [] => "nothing in it needs that now".to_owned(),
                        values => values.join(", "),
                    };
                    messages.push(Message::status(format!("`{file}` is trusted until it changes: {what}")));
                }
                if let Some(include) = include {
                    messages.push(Message::status(format!("`{}` is trusted until it changes", include.display())));
                }
                let place = |place: &String| Message::status(format!("`{place}` may be read from now on"));
                messages.extend(self.outside.iter().map(place));
            }
        }
        messages
    }

    /// All that needs trust, if that was asked for.
    fn text(&self, _verbosity: Verbosity) -> String {
        let TrustDecision::Listed { values } = &self.decision else { return String::new() };
        let line = |kind: &str, what: &[u8]| [kind.to_owned(), printable(what)];
        let settings = values.iter().map(|value| line("setting", value.as_bytes()));
        let rules = self.rules.iter().map(|rule| line("rule", &rule.0));
        let files = self.included.iter().map(|path| line("file", shown(&path.0).as_bytes()));
        let places = self.outside.iter().map(|place| line("place", place.as_bytes()));
        table(["KIND", "WHAT"], settings.chain(rules).chain(files).chain(places))
    }
}
