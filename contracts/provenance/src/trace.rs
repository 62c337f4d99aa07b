//! Where a lot came from, back to what entered the book.

use obelisk_contract::prelude::*;

use crate::Lot;

/// Lots of one answer; a longer history is read on from the lots named in it.
const TRACE_MAX: usize = 200;

/// The lot and its sources, each once, nearest first.
pub fn trace(args: &Args) -> Answer {
    args.count(1, "trace(lot)")?;
    let mut names = vec![args.name(0, "lot")?.to_owned()];
    let mut json = Json::list();
    let mut at = 0;
    while at < names.len() && at < TRACE_MAX {
        let lot = Lot::load(&names[at])?;
        json.push(line(&lot));
        for source in lot.record.text("sources").split(',').filter(|name| !name.is_empty()) {
            if !names.iter().any(|known| known == source) {
                names.push(source.to_owned());
            }
        }
        at += 1;
    }
    Json::object().json("lots", json).flag("complete", at == names.len()).answer()
}

fn line(lot: &Lot) -> Json {
    let record = &lot.record;
    let mut json = Json::object()
        .text("lot", &lot.name)
        .text("product", lot.product())
        .number("quantity", lot.quantity())
        .text("unit", lot.unit())
        .text("by", record.text("by"))
        .text("holder", record.text("holder"))
        .text("sources", record.text("sources"));
    for name in ["origin", "recipe", "custody"] {
        if record.has(name) {
            json = json.text(name, record.text(name));
        }
    }
    json
}
