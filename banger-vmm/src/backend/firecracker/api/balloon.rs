//! `/balloon`.

use serde::Serialize;

use super::{Request, Version};

/// `Balloon` of the schema.
#[derive(Clone, Debug, Serialize)]
pub(in crate::backend::firecracker) struct Balloon {
    amount_mib: u32,
    deflate_on_oom: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    free_page_reporting: Option<bool>,
}

impl Balloon {
    /// A balloon that takes nothing from the guest but the pages that it reports as free.
    pub(in crate::backend::firecracker) fn empty(version: Version) -> Balloon {
        let reports = version >= Version::FREE_PAGE_REPORTING;
        Balloon { amount_mib: 0, deflate_on_oom: true, free_page_reporting: reports.then_some(true) }
    }

    pub(in crate::backend::firecracker) fn request(&self) -> Request {
        Request::put("/balloon", self)
    }
}
