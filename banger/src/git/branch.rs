//! Checks of the name and the start of a branch that is to be created.

use super::{Repository, Result};

impl Repository {
    /// Whether a branch may have this name: git-check-ref-format(1).
    ///
    /// # Errors
    /// If git cannot be run.
    pub fn is_branch_name(&self, name: &str) -> Result<bool> {
        // One of `@{-1}` stands for another branch, which is not what is meant.
        Ok(!name.contains("@{") && self.agrees(&["check-ref-format", "--branch", name])?)
    }

    /// Whether there is a branch of this name.
    ///
    /// # Errors
    /// If git cannot be run.
    pub fn has_branch(&self, name: &str) -> Result<bool> {
        self.agrees(&["show-ref", "--verify", "--quiet", &format!("refs/heads/{name}")])
    }

    /// The commit that `name` refers to, by the rules of gitrevisions(7); `None` if it is none.
    ///
    /// # Errors
    /// If git cannot be run.
    pub fn commit(&self, name: &str) -> Result<Option<String>> {
        let arguments = ["rev-parse", "--verify", "--quiet", "--end-of-options", &format!("{name}^{{commit}}")];
        if !self.agrees(&arguments)? {
            return Ok(None);
        }
        Ok(Some(String::from_utf8_lossy(&self.git(&arguments)?).trim().to_owned()))
    }
}
