//! Partial clones: repositories that have not all objects, and a remote that promises the others.
//! See Documentation/technical/partial-clone.txt of git.

use gix::config::file::Metadata;
use gix::config::{File, Source};

use super::guest_config::remote_without_user_info;
use super::{Repository, Result, config};

/// What a partial clone lacks, and where git gets it from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partial {
    /// The remote's name; a URL in its place has lost user and password.
    pub remote: String,
    /// What was left out, as in `git clone --filter`; empty if that is not known.
    pub filter: String,
}

impl Partial {
    /// What may be missing, for people.
    pub fn missing(&self) -> &'static str {
        match self.filter.as_bytes() {
            filter if filter.starts_with(b"blob:limit=") => "large files of other commits",
            filter if filter.starts_with(b"blob:") => "files of other commits",
            filter if filter.starts_with(b"tree:") => "directories and files of other commits",
            _ => "some objects",
        }
    }
}

impl Repository {
    /// What this repository lacks, if it is a partial clone.
    ///
    /// # Errors
    /// A configuration that cannot be read.
    pub fn partial(&self) -> Result<Option<Partial>> {
        let config = self.config()?;
        let remotes = config.sections_by_name("remote").into_iter().flatten();
        let promisor = remotes
            .filter_map(|section| Some(section.header().subsection_name()?.to_string()))
            .find(|name| config::boolean(&config, &format!("remote.{name}.promisor"), false));
        let Some(remote) = self.promisor(&config).or(promisor) else { return Ok(None) };
        let filter = config.string(format!("remote.{remote}.partialCloneFilter").as_str());
        let filter = filter.map(|filter| filter.to_string()).unwrap_or_default();
        let remote = remote_without_user_info(&remote).unwrap_or_else(|| "a remote helper".to_owned());
        Ok(Some(Partial { remote, filter }))
    }

    /// The remote that `extensions.partialClone` of the repository's own configuration names.
    pub(crate) fn promisor(&self, config: &File) -> Option<String> {
        let is_own = |meta: &Metadata| meta.source == Source::Local && meta.level == 0;
        let name = config.string_filter("extensions.partialClone", is_own)?;
        (!name.is_empty()).then(|| name.to_string())
    }
}
