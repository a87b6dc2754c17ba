//! `tollgate reload`: asks the running gateway to read its configuration again, and says what came of it.
//! Whatever is wrong with the file, the gateway says itself; the old configuration serves on.

use serde_json::Value;

use super::running::Running;

/// Asks for a reload.
pub(super) fn reload(gateway: &Running) -> Result<String, String> {
    let answer = gateway.post("/admin/reload")?;
    let generation = answer.get("generation").and_then(Value::as_u64);
    generation
        .map(|generation| format!("reloaded: generation {generation} serves\n"))
        .ok_or_else(|| gateway.is_no_gateway("a generation"))
}
