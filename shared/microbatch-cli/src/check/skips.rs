//! Findings that a template says are meant:
//!
//! ```yaml
//! Metadata:
//!   microbatch: { skip: [{ id: MB011, comment: Only big orders come here }] }
//! ```
//!
//! The same shape as checkov's. Without a comment it does not count.

use super::report::Finding;
use super::template::Template;

/// Takes the findings out that their resources' metadata skips, and counts them.
pub(super) fn take_skipped(template: &Template, findings: &mut Vec<Finding>) -> usize {
    let before = findings.len();
    findings.retain(|finding| !is_skipped(template, finding));
    before - findings.len()
}

fn is_skipped(template: &Template, finding: &Finding) -> bool {
    let metadata = template.resources.get(&finding.place.resource).and_then(|resource| resource.metadata.as_ref());
    let skips = metadata.and_then(|metadata| metadata.get("microbatch")?.value.get("skip"));
    let skips = skips.map_or(&[][..], |skips| skips.value.items());
    skips.iter().any(|skip| {
        let text = |key: &str| skip.get(key).and_then(|entry| entry.value.text()).unwrap_or_default();
        text("id") == finding.rule && !text("comment").trim().is_empty()
    })
}
