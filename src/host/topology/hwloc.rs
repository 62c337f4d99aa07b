//! Adapter of libhwloc (feature `hwloc`): its tree of objects as `Topology`.
//!
//! hwloc calls the books and drawers of IBM Z groups with a subtype, and merges a level into the
//! one inside it where both hold the same threads: a drawer with one book is that book.

use std::path::Path;

use hwlocality::Topology as Machine;
use hwlocality::object::TopologyObject;
use hwlocality::object::types::ObjectType;

use crate::host::topology::Raw;
use crate::host::topology::Topology;

/// This machine: what the process sees of it.
pub fn of_machine() -> Result<Topology, String> {
    let machine = Machine::new().map_err(|error| error.to_string())?;
    Ok(read(&machine))
}

/// A machine recorded with `lstopo --of xml`.
pub fn of_xml(path: &Path) -> Result<Topology, String> {
    let builder = Machine::builder().from_xml_file(path).map_err(|error| error.to_string())?;
    let machine = builder.build().map_err(|error| error.to_string())?;
    Ok(read(&machine))
}

fn read(machine: &Machine) -> Topology {
    let groups = machine.objects_with_type(ObjectType::Group);
    let has = |subtype: &str| groups.clone().any(|group| is(group, subtype));
    let zones = (has("Book"), has("Drawer"));
    let units = machine.objects_with_type(ObjectType::PU);
    Topology::from_raw(units.map(|unit| raw(unit, zones)).collect())
}

fn is(group: &TopologyObject, subtype: &str) -> bool {
    group.subtype().is_some_and(|found| found.to_bytes() == subtype.as_bytes())
}

/// A missing level counts as the one inside it.
fn raw(unit: &TopologyObject, (books, drawers): (bool, bool)) -> Raw {
    let id = |object: &TopologyObject| object.global_persistent_index();
    let above = |ty: ObjectType| unit.first_ancestor_with_type(ty).map(id);
    let group = |subtype: &str| unit.ancestors().find(|object| is(object, subtype)).map(id);
    let core = above(ObjectType::Core).unwrap_or_else(|| id(unit));
    let package = above(ObjectType::Package).unwrap_or(0);
    let book = group("Book").unwrap_or(package);
    let drawer = group("Drawer").unwrap_or(book);
    let largest =
        [ObjectType::L5Cache, ObjectType::L4Cache, ObjectType::L3Cache, ObjectType::L2Cache]
            .into_iter()
            .find_map(above);
    // NUMA nodes hang beside the tree of processors, at whatever level they belong to.
    let node = unit.ancestors().find_map(|object| object.memory_children().next());
    Raw {
        id: unit.os_index().unwrap_or(0),
        core: vec![core],
        package: vec![package],
        book: (books || drawers).then(|| vec![book]),
        drawer: (books || drawers).then(|| vec![drawer]),
        numa: node.and_then(TopologyObject::os_index).unwrap_or(0),
        cache: vec![largest.unwrap_or(package)],
    }
}
