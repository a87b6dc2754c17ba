//! What the services serve: people, things, and who bought what.
//! Made from lists and numbers, so that every instance of every start tells the same story.

use serde_json::{Value, json};

use crate::options::Service;

/// Items of each service, numbered from 1.
pub const ITEMS: u64 = 24;

const PEOPLE: [(&str, &str, &str, &str); 12] = [
    ("Ada", "Lindqvist", "Stockholm", "SE"),
    ("Bruno", "Ferrari", "Torino", "IT"),
    ("Chiara", "Okafor", "Lagos", "NG"),
    ("Daniel", "Weber", "Leipzig", "DE"),
    ("Elif", "Demir", "Izmir", "TR"),
    ("Farid", "Haddad", "Lyon", "FR"),
    ("Grace", "Kimani", "Nairobi", "KE"),
    ("Hiro", "Tanaka", "Osaka", "JP"),
    ("Ines", "Carvalho", "Porto", "PT"),
    ("Jonas", "Berg", "Bergen", "NO"),
    ("Kavya", "Raman", "Chennai", "IN"),
    ("Liam", "Murphy", "Cork", "IE"),
];

const THINGS: [(&str, &str, u64); 12] = [
    ("Enamel kettle, 1.5 l", "kitchen", 3490),
    ("Linen apron", "kitchen", 2450),
    ("Cast iron pan, 26 cm", "kitchen", 5990),
    ("Reading lamp", "home", 7900),
    ("Wool blanket", "home", 8900),
    ("Wall clock, oak", "home", 4990),
    ("Notebook, dotted, A5", "office", 1290),
    ("Fountain pen", "office", 3900),
    ("Desk organiser", "office", 2790),
    ("Trail running belt", "outdoor", 3290),
    ("Steel bottle, 0.7 l", "outdoor", 2690),
    ("Head torch", "outdoor", 4490),
];

const STATES: [&str; 4] = ["delivered", "shipped", "paid", "open"];

/// The path and JSON name of a service's items.
pub fn collection(service: Service) -> &'static str {
    match service {
        Service::User => "users",
        Service::Product => "products",
        Service::Order => "orders",
    }
}

/// One item, or none with that number.
pub fn item(service: Service, id: u64) -> Option<Value> {
    let index = usize::try_from(id.checked_sub(1)?).ok().filter(|_| id <= ITEMS)?;
    Some(match service {
        Service::User => user(id, index),
        Service::Product => product(id, index),
        Service::Order => order(id, index),
    })
}

/// The language of an answer, and a greeting in it.
pub fn greeting(accept_language: &str) -> (&'static str, &'static str) {
    let wanted = accept_language.split([',', '-', ';']).next().unwrap_or_default().trim();
    match wanted {
        "de" => ("de", "Hallo"),
        "fr" => ("fr", "Bonjour"),
        "es" => ("es", "Hola"),
        _ => ("en", "Hello"),
    }
}

fn user(id: u64, index: usize) -> Value {
    let (first, _, city, country) = PEOPLE[index % PEOPLE.len()];
    // The second dozen are other people: family names are shifted by one.
    let last = PEOPLE[(index + index / PEOPLE.len()) % PEOPLE.len()].1;
    json!({
        "id": id,
        "name": format!("{first} {last}"),
        "email": format!("{}.{}@example.com", first.to_lowercase(), last.to_lowercase()),
        "city": city,
        "country": country,
        "created": format!("2025-{:02}-{:02}", index % 12 + 1, index * 7 % 28 + 1),
    })
}

fn product(id: u64, index: usize) -> Value {
    let (name, category, cents) = THINGS[index % THINGS.len()];
    let (name, cents) =
        if index < THINGS.len() { (name.to_owned(), cents) } else { (format!("{name}, set of two"), cents * 2 - 500) };
    json!({
        "id": id,
        "sku": format!("{}-{:04}", category[..3].to_uppercase(), 1000 + index * 37),
        "name": name,
        "category": category,
        "price": cents as f64 / 100.0,
        "currency": "EUR",
        "in_stock": index * 13 % 50,
    })
}

fn order(id: u64, index: usize) -> Value {
    let lines: Vec<(usize, u64)> =
        (0..index % 3 + 1).map(|line| ((index * 5 + line * 7) % 12, line as u64 + 1)).collect();
    let cents: u64 = lines.iter().map(|&(thing, count)| THINGS[thing].2 * count).sum();
    json!({
        "id": id,
        "user_id": index * 11 % 24 + 1,
        "status": STATES[index % STATES.len()],
        "ordered": format!("2026-0{}-{:02}", index % 6 + 1, index * 5 % 28 + 1),
        "lines": lines
            .iter()
            .map(|&(thing, count)| json!({ "product_id": thing + 1, "name": THINGS[thing].0, "count": count, "price": THINGS[thing].2 as f64 / 100.0 }))
            .collect::<Vec<_>>(),
        "total": cents as f64 / 100.0,
        "currency": "EUR",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_all_its_items_and_no_more() {
        for service in [Service::User, Service::Product, Service::Order] {
            for id in 1..=ITEMS {
                assert_eq!(item(service, id).unwrap()["id"], id);
            }
            assert_eq!(item(service, 0), None);
            assert_eq!(item(service, ITEMS + 1), None);
        }
    }

    #[test]
    fn no_two_users_share_an_address() {
        let mut emails: Vec<String> =
            (1..=ITEMS).map(|id| item(Service::User, id).unwrap()["email"].to_string()).collect();
        emails.sort();
        emails.dedup();
        assert_eq!(emails.len() as u64, ITEMS);
    }

    #[test]
    fn an_order_adds_up() {
        for id in 1..=ITEMS {
            let order = item(Service::Order, id).unwrap();
            let lines = order["lines"].as_array().unwrap();
            let sum: f64 =
                lines.iter().map(|line| line["price"].as_f64().unwrap() * line["count"].as_f64().unwrap()).sum();
            assert!((sum - order["total"].as_f64().unwrap()).abs() < 0.001, "{order}");
        }
    }

    #[test]
    fn greetings_know_the_first_language() {
        assert_eq!(greeting("de-CH, fr;q=0.5").0, "de");
        assert_eq!(greeting("fr").0, "fr");
        assert_eq!(greeting("xx").0, "en");
    }
}
