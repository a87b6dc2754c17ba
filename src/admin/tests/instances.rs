//! What the admin API makes of questions about instances, and of the answers to them.

use super::*;
use crate::config::Span;

const ONE: &str = "/admin/services/users/instances/10.0.0.1:80";

async fn ask(gateway: &Arc<Gateway>, method: Method, path: &str, body: &str) -> (u16, Value) {
    let (address, _server) = serve(Arc::clone(gateway)).await;
    let answer = client(method, address, path).body(body.to_owned()).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}
