use serde_json::json;

use super::*;

fn status() -> Status {
    serde_json::from_value(json!({
        "schema": "atoll.status/1",
        "node": {
            "id": "12D3", "name": "a", "listen": [], "version": "0.1.0", "uptime_s": 7,
            "memory_bytes": 9, "weight_bytes_per_s": 1, "prefill_bytes_per_s": 1, "threads": 1,
            "kernels": "avx2", "rss_bytes": null,
        },
        "peers": [{
            "id": "12D4", "name": "b", "address": "", "transport": "tcp", "found_by": "mdns",
            "rtt_us": null, "memory_bytes": 1, "weight_bytes_per_s": 1, "prefill_bytes_per_s": 1,
            "bytes_received": 12, "bytes_sent": 34,
        }],
        "models": [{
            "name": "m", "id": "00", "context": 8, "ready": true,
            "stages": [{ "node": "a", "layers": [0, 3] }, { "node": "b", "layers": [3, 5] }],
        }],
        "plan": {
            "model": "m", "epoch": 1, "stages": [], "context": 8,
            "timing": {
                "positions": 4, "token_ms": 12.5, "measured_token_ms": 20.0, "prompt_tokens": 8,
                "first_token_ms": 500.0, "between_ms": 2.5, "measured_between_ms": null,
                "nodes": [
                    { "node": "a", "compute_ms": 6.0, "measured_ms": 8.0 },
                    { "node": "say \"b\"\n", "compute_ms": 4.0, "measured_ms": null },
                ],
            },
        },
        "links": [{ "from": "a", "to": "b", "rtt_us": 1500, "bytes_per_s": 1_000_000 }],
        "held": [], "requests": 2, "ring": null,
        "blobs": { "received_bytes": 5, "sent_bytes": 6 },
        "search": {
            "listening": [], "mdns": false, "bootstrap": [], "heard": [], "failures": [],
        },
    }))
    .expect("a status")
}

#[track_caller]
fn says(text: &str, line: &str) {
    assert!(text.lines().any(|it| it == line), "no line {line}:\n{text}");
}

#[test]
fn what_is_predicted_stands_beside_what_was_measured() {
    let text = text(&status());
    says(&text, r#"atoll_token_seconds{model="m",by="predicted"} 0.0125"#);
    says(&text, r#"atoll_token_seconds{model="m",by="measured"} 0.02"#);
    says(&text, r#"atoll_first_token_seconds{model="m",by="predicted"} 0.5"#);
    says(&text, r#"atoll_token_compute_seconds{model="m",node="a",by="measured"} 0.008"#);
    says(&text, r#"atoll_token_between_nodes_seconds{model="m",by="predicted"} 0.0025"#);
    says(&text, r#"atoll_link_round_trip_seconds{from="a",to="b"} 0.0015"#);
    says(&text, r#"atoll_link_bytes_per_second{from="a",to="b"} 1000000.0"#);
    // What was not measured is no figure.
    assert!(!text.contains(r#"between_nodes_seconds{model="m",by="measured"}"#), "{text}");
    assert!(!text.contains("resident"), "{text}");
}

#[test]
fn what_is_counted_keeps_its_name_and_ends_the_text() {
    let text = text(&status());
    says(&text, r#"atoll_peer_received_bytes_total{peer="b"} 12"#);
    says(&text, r#"atoll_peer_sent_bytes_total{peer="b"} 34"#);
    says(&text, "atoll_blobs_sent_bytes_total 6");
    says(&text, "atoll_requests 2.0");
    says(&text, r#"atoll_model_layers{model="m",node="b"} 2.0"#);
    says(&text, "# TYPE atoll_peer_received_bytes counter");
    assert!(text.ends_with("# EOF\n"), "{text}");
}

#[test]
fn names_of_others_do_not_leave_their_label() {
    let text = text(&status());
    says(
        &text,
        r#"atoll_token_compute_seconds{model="m",node="say \"b\"\n",by="predicted"} 0.004"#,
    );
}
