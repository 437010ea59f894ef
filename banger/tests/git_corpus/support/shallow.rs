//! A repository with a shallow history, put together elsewhere from what `banger::git` says, and
//! brought up to date as a guest's is.

use std::fs;
use std::path::PathBuf;

use banger::git::{Sent, list};

use super::Fixture;

/// The repository elsewhere. Its files are the fixture's own.
pub(crate) struct ShallowTwin<'a> {
    fixture: &'a Fixture,
    sent: Sent,
    git: PathBuf,
}

impl<'a> ShallowTwin<'a> {
    pub(crate) fn new(fixture: &'a Fixture) -> Self {
        let git = fixture.beside("shallow.git");
        fs::create_dir_all(git.join("objects/pack")).unwrap();
        ShallowTwin { fixture, sent: Sent::default(), git }
    }

    /// Brings it up to date. Returns how many files of objects that took.
    pub(crate) fn update(&mut self) -> usize {
        let workspace = self.fixture.workspace();
        let repository = &workspace.repository;
        let packs = self.fixture.beside("packs");
        let shallow = repository.shallow(std::mem::take(&mut self.sent), &packs).unwrap();
        self.sent = shallow.sent;
        for object in &shallow.objects {
            fs::copy(&object.path, self.git.join("objects").join(&object.name)).unwrap();
        }
        let put = |name: &[u8], bytes: &[u8]| {
            let path = self.git.join(std::str::from_utf8(name).unwrap());
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        };
        let _ = fs::remove_dir_all(self.git.join("refs"));
        fs::create_dir(self.git.join("refs")).unwrap();
        put(b"config", &repository.guest_config().unwrap());
        put(b"HEAD", &shallow.state.head);
        shallow.state.refs.iter().for_each(|(name, value)| put(name, &[value, &b"\n"[..]].concat()));
        shallow.state.files.iter().for_each(|file| put(&file.path, &file.bytes));
        put(
            b"index",
            &repository.guest_index(&list(&workspace).unwrap(), &Default::default(), &|_| None).unwrap().bytes,
        );
        shallow.objects.len()
    }

    /// What git says there.
    #[track_caller]
    pub(crate) fn says(&self, question: &[&str]) -> String {
        let git_dir = format!("--git-dir={}", self.git.display());
        let work_tree = format!("--work-tree={}", self.fixture.root.display());
        let all = [&[git_dir.as_str(), &work_tree], question].concat();
        String::from_utf8(self.fixture.git(&all)).unwrap()
    }

    /// Checks that it is sound, and that git says the same of the current commit and the files on
    /// both sides.
    #[track_caller]
    pub(crate) fn assert_same(&self) {
        assert_eq!(self.says(&["fsck", "--no-progress", "--no-dangling"]), "");
        for question in [
            &["status", "--porcelain=v2"][..],
            &["log", "-1", "--format=%H %T %P %s"],
            &["diff"],
            &["diff", "--cached"],
            &["ls-files", "-s"],
            &["ls-tree", "-r", "HEAD"],
        ] {
            let host = String::from_utf8(self.fixture.git(question)).unwrap();
            let guest = self.says(question);
            // Where the history is cut, a commit has no parents.
            let without_parents = |text: &str| match question[0] {
                "log" => text.split(' ').take(2).collect::<Vec<_>>().join(" "),
                _ => text.to_owned(),
            };
            assert_eq!(without_parents(&guest), without_parents(&host), "git {question:?}");
        }
    }
}
