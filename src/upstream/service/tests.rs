//! Services whose instances come, go and are drained, without a network: by registration and files.
//! The same with real traffic is in the black box tests `discovery` and `drain`.

use std::fs;

use http::StatusCode;
use tokio::runtime::Runtime;

use super::*;
use crate::upstream::Try;

fn background() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn discovery() -> Arc<Discovery> {
    Discovery::compile(&config::Discovery::default(), None).unwrap()
}

fn of(text: &str) -> config::Service {
    serde_yaml::from_str(text).unwrap()
}

fn compile(text: &str, discovery: &Arc<Discovery>, before: Predecessor<'_>) -> Arc<Service> {
    Service::compile("users", &of(text), discovery, &Answers::default(), before).unwrap()
}

fn serving(text: &str, discovery: &Arc<Discovery>, background: &Runtime) -> Arc<Service> {
    let service = compile(text, discovery, Predecessor::None);
    service.start(None, background.handle());
    service
}

fn reload(text: &str, service: &Arc<Service>, background: &Runtime) -> Arc<Service> {
    let next = compile(text, &service.discovery, Predecessor::Reload(Some(service)));
    next.start(Some(service), background.handle());
    next
}

fn address(port: u16) -> Address {
    Address::Inet(([127, 0, 0, 1], port).into())
}

fn registration(weight: u16) -> Registration {
    Registration { weight, backup: false, ttl: config::Span::seconds(3_600) }
}

fn register(service: &Service, ports: impl IntoIterator<Item = u16>) {
    for port in ports {
        service.register(&address(port), registration(1)).unwrap();
    }
}

fn port_of(address: &Address) -> u16 {
    address.to_string().rsplit_once(':').unwrap().1.parse().unwrap()
}

fn ports(service: &Service) -> Vec<u16> {
    service.pool().addresses().map(port_of).collect()
}

fn begin(service: &Service, port: u16) -> Try {
    service.pool().begin(&service.instance(&address(port)).unwrap(), Instant::now())
}

fn chosen(service: &Service) -> Option<u16> {
    service.pool().select(&[], None).map(|instance| port_of(&instance.address))
}

const REGISTERS: &str = "{instances: [127.0.0.1:1], discover: {registration: true}}";

#[test]
fn who_comes_and_goes_changes_nothing_for_the_others() {
    let background = background();
    let service = serving(REGISTERS, &discovery(), &background);
    service.pool().answered(&mut begin(&service, 1), StatusCode::OK);
    let first = service.instance(&address(1)).unwrap();
    assert_eq!(service.register(&address(2), registration(1)), Ok(News::New));
    assert_eq!(service.register(&address(2), registration(5)), Ok(News::Changed));
    assert_eq!(service.register(&address(2), registration(5)), Ok(News::Renewed));
    assert_eq!(ports(&service), [1, 2]);
    assert!(service.pool().instances().any(|status| status.weight == 5));
    service.remove(&address(2)).unwrap();
    assert_eq!(ports(&service), [1]);
    assert!(Arc::ptr_eq(&first, &service.instance(&address(1)).unwrap()));
    assert_eq!(first.counts(), (1, 0));
    assert_eq!(service.remove(&address(1)), Err(Unchanged::NotRegistered));
    assert_eq!(service.remove(&address(2)), Err(Unchanged::NoInstance));
}

#[test]
fn a_list_that_is_the_same_keeps_the_pool() {
    let background = background();
    let service = serving(REGISTERS, &discovery(), &background);
    register(&service, [2]);
    let pool = Arc::clone(&service.pool());
    register(&service, [2]);
    service.catch_up();
    assert!(Arc::ptr_eq(&pool, &service.pool()));
}

#[test]
fn who_leaves_finishes_and_who_comes_back_meanwhile_is_the_same() {
    let background = background();
    let service = serving(REGISTERS, &discovery(), &background);
    register(&service, [2]);
    let (mut busy, instance) = (begin(&service, 2), service.instance(&address(2)).unwrap());
    service.remove(&address(2)).unwrap();
    assert!(instance.is_drained());
    assert_eq!(service.leaving().len(), 1);
    register(&service, [2]);
    assert!(Arc::ptr_eq(&instance, &service.instance(&address(2)).unwrap()) && !instance.is_drained());
    assert!(service.leaving.lock().is_empty());
    service.remove(&address(2)).unwrap();
    busy.end();
    assert!(service.leaving().is_empty());
}

#[test]
fn what_is_drained_is_never_chosen_not_even_as_the_last_one() {
    let background = background();
    let eject = "{instances: [127.0.0.1:1, 127.0.0.1:2], eject: {errors: 1, ejected_max: 100%, when_all_down: all}}";
    let service = serving(eject, &discovery(), &background);
    service.drain(&address(1), true).unwrap();
    assert!((0..20).all(|_| chosen(&service) == Some(2)));
    service.pool().failed(&mut begin(&service, 2), Some("upstream_connect"));
    assert_eq!(chosen(&service), Some(2), "ejected, but all that is left");
    service.drain(&address(2), true).unwrap();
    assert_eq!((chosen(&service), service.pool().is_usable()), (None, false));
    assert!(!service.pool().has_other(&[]));
    service.drain(&address(1), false).unwrap();
    assert_eq!(chosen(&service), Some(1));
    assert_eq!(service.drain(&address(9), true), Err(Unchanged::NoInstance));
}

#[test]
fn a_drain_outlives_reloads_and_ends_when_the_instance_leaves() {
    let background = background();
    let service = serving(REGISTERS, &discovery(), &background);
    register(&service, [2]);
    service.drain(&address(2), true).unwrap();
    // Another way to the instance makes another one of it.
    let next = "{instances: [127.0.0.1:1], discover: {registration: true}, timeouts: {response: 1s}}";
    let next = reload(next, &service, &background);
    let instance = next.instance(&address(2)).unwrap();
    assert!(instance.is_drained() && !Arc::ptr_eq(&instance, &service.instance(&address(2)).unwrap()));
    next.remove(&address(2)).unwrap();
    register(&next, [2]);
    assert!(!next.instance(&address(2)).unwrap().is_drained());
}

#[test]
fn a_reload_keeps_what_was_found_and_what_comes_meanwhile() {
    let background = background();
    let service = serving(REGISTERS, &discovery(), &background);
    register(&service, [2]);
    assert!(Arc::ptr_eq(&service, &reload(REGISTERS, &service, &background)), "nothing changed");
    let changed = "{instances: [127.0.0.1:3], discover: {registration: true}}";
    let next = compile(changed, &service.discovery, Predecessor::Reload(Some(&service)));
    register(&service, [4]);
    assert_eq!((ports(&service), ports(&next)), (vec![1, 2, 4], vec![2, 3]));
    next.start(Some(&service), background.handle());
    assert_eq!(ports(&next), [2, 3, 4]);
    register(&service, [5]);
    assert_eq!(ports(&service), [1, 2, 4], "it has a successor");
    next.catch_up();
    assert_eq!(ports(&next), [2, 3, 4, 5]);
    let without = reload("{instances: [127.0.0.1:3]}", &next, &background);
    assert_eq!(ports(&without), [3]);
    assert_eq!(without.register(&address(6), registration(1)), Err(Unchanged::NoRegistration));
}

#[test]
fn the_first_source_decides_where_two_name_the_same_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.json");
    fs::write(&path, r#"[{"address": "127.0.0.1:1", "weight": 9}, {"address": "127.0.0.1:2", "weight": 9}]"#).unwrap();
    let text = format!("{{instances: [127.0.0.1:1], discover: {{registration: true, file: {}}}}}", path.display());
    let background = background();
    let service = serving(&text, &discovery(), &background);
    register(&service, [2, 3]);
    let weights: Vec<_> = service.pool().instances().map(|status| status.weight).collect();
    assert_eq!(weights, [1, 9, 1]);
    let sources = service.sources();
    assert_eq!((sources[0].instances, &*sources[1].source, sources[1].instances), (2, "registration", 2));
    fs::write(&path, "no list").unwrap();
    let failed = Service::compile("other", &of(&text), &service.discovery, &Answers::default(), Predecessor::None);
    assert_eq!(failed.err().unwrap()[0].0, "discover.file");
}

#[test]
fn a_service_that_finds_nobody_has_an_empty_pool() {
    let background = background();
    let service = serving("{discover: {dns: users.internal:80}}", &discovery(), &background);
    assert_eq!((chosen(&service), service.pool().is_usable()), (None, false));
    assert!(service.sources()[0].problem.is_some());
}

#[test]
fn a_name_among_instances_has_to_have_an_answer() {
    let of_name = of("[users.internal:80]");
    let failed = Service::compile("users", &of_name, &discovery(), &Answers::default(), Predecessor::None);
    assert_eq!(failed.err().unwrap()[0].0, "instances[0]");
    let failed = Service::compile(
        "users",
        &of("[127.0.0.1:1, 127.0.0.1:1]"),
        &discovery(),
        &Answers::default(),
        Predecessor::None,
    );
    assert_eq!(failed.err().unwrap()[0].0, "instances[1]");
}

#[test]
fn one_of_a_thousand_comes_and_goes_in_no_time() {
    let background = background();
    for balance in ["round_robin", "least_requests"] {
        let text = format!("{{balance: {balance}, discover: {{registration: true}}, eject: {{}}, breaker: {{}}}}");
        let service = serving(&text, &discovery(), &background);
        let registry = &service.discovery.registry;
        for port in 1..=1_000 {
            registry.register("users", &address(port), registration(1), Instant::now()).unwrap();
        }
        service.catch_up();
        let begun = Instant::now();
        register(&service, [1_001]);
        assert_eq!(ports(&service).len(), 1_001);
        assert!(begun.elapsed() < Duration::from_secs(1), "{balance}: {:?}", begun.elapsed());
    }
}
