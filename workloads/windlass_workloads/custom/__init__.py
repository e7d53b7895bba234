"""For scripts that run by spec.custom: verified checkpoints, progress, and a stop that loses nothing.

    import windlass_workloads.custom as windlass

    dist.init_process_group()
    with windlass.open(total_steps=200) as run:
        state = run.load()                      # what was saved last, None at the beginning
        if state is not None:
            model.load_state_dict(state["model"])
        for step in range(run.resumed_step + 1, 201):
            loss = train(run.batch(step))       # zero-based number of the batch to train on
            run.report(step, loss=loss)
            stop = run.should_stop()            # agreed among ranks: suspend, drain, preemption
            if stop or run.due(step):
                run.save(step, {"model": model.state_dict()})
            if stop:
                break

All ranks call the same methods in the same order. Importing this imports torch; the rest of Windlass does not need it.
"""

from windlass_workloads.custom.run import NotManaged, Run, is_managed, open_run

open = open_run

__all__ = ["NotManaged", "Run", "is_managed", "open"]
