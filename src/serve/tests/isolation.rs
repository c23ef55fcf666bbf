//! A panic on behalf of one client, and what becomes of the others.

use super::*;
use crate::fault::inject;
use crate::shares::Share;

/// Lets the own relay do something for client 1 that panics at its end.
fn fail(world: &mut World, act: impl FnOnce(&mut Serve)) {
    let failed = world.serve.alone(1, &mut world.metrics, |serve, _| {
        act(serve);
        panic!("on purpose");
    });
    assert_eq!(failed, None::<()>);
    world.serve.assert_invariants();
}

#[test]
fn a_client_that_fails_is_closed_and_nobody_else() {
    let mut world = World::new(&notes(3));
    world.accept(2);
    for client in [1, 2] {
        world.say(client, r#"["REQ","all",{}]"#);
    }
    world.outputs();
    fail(&mut world, |serve| {
        let session = serve.sessions.get_mut(&1).expect("a client");
        session.send("half of an answer".to_owned(), &mut serve.out);
    });
    assert_eq!(world.outputs(), [ServeOutput::Close { client: 1, code: 1011 }], "and nothing of what it was doing");
    assert_eq!((world.metrics.faults.count(Side::Client), world.serve.clients()), (1, 1));
    assert_eq!(world.answers(2).len(), 4, "three notes and EOSE");
    world.publish(&[note(9)]);
    let outputs = world.outputs();
    assert_eq!((texts_to(&outputs, 1), texts_to(&outputs, 2)), (0, 1));
    assert_eq!(world.say(1, r#"["REQ","s",{}]"#), None, "late words are ignored");
}

#[test]
fn what_a_failed_client_leaves_half_done_is_put_in_order() {
    let mut world = World::new(&notes(3));
    world.accept(2);
    world.say(2, r#"["REQ","mine",{"kinds":[1]}]"#);
    let bytes = world.serve.bytes_most();
    world.say(1, r#"["REQ","s",{"kinds":[1]}]"#);
    fail(&mut world, |serve| {
        // A subscription that is gone from its session and still counted and found, and one that is the other way round.
        let session = serve.sessions.get_mut(&1).expect("a client");
        session.close("s").expect("it is open");
        let subscription = Subscription::new("t".to_owned(), Vec::new(), 0);
        session.open(77, subscription, &mut serve.out);
        serve.busy.push(1, &mut Share::default());
    });
    assert_eq!((world.serve.subscriptions(), world.serve.bytes_most()), (1, bytes));
    world.outputs();
    world.publish(&[note(9)]);
    assert_eq!(world.answers(2).len(), 4 + 1);
    world.serve.on_closed(2);
    assert_eq!(world.serve.next_deadline(), None);
    world.serve.assert_invariants();
}

#[test]
fn a_client_may_fail_wherever_the_own_relay_goes_on_with_it() {
    let step = |world: &mut World| _ = world.serve.step(world.now, &world.store, &mut world.metrics).unwrap();
    let acts: [fn(&mut World); 3] = [
        |world| world.publish(&[note(9)]),
        |world| _ = world.serve.step(world.now, &world.store, &mut world.metrics).unwrap(),
        |world| world.wait(30),
    ];
    for act in acts {
        let mut world = World::new(&notes(3));
        world.accept(2);
        world.say(2, r#"["REQ","all",{"limit":0}]"#);
        world.say(1, r#"["REQ","all",{"kinds":[1]}]"#);
        inject(Party::Client(1), 1);
        act(&mut world);
        step(&mut world);
        world.serve.assert_invariants();
        assert_eq!((world.metrics.faults.count(Side::Client), world.serve.clients()), (1, 1));
        assert!(world.outputs().contains(&ServeOutput::Close { client: 1, code: 1011 }));
    }
}
