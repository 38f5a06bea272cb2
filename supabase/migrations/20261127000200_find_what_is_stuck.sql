-- What nobody works on any more is found: runs whose sandbox is gone, runs and tasks that wait for ever. And a run that was
-- given up may be done again.

-- Running runs whose sandbox is not among p_sandboxes, all those that the provider has: their next step will find out, and
-- is due now. Not those that somebody is at work on, or was within p_grace_s seconds: their sandbox may be newer than the list.
create function public.runs_without_sandbox(p_sandboxes text[], p_grace_s integer)
returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language sql set search_path = '' as $$
    update public.runs r set next_check_at = now()
    where r.status = 'running' and r.sandbox_id is not null and r.sandbox_id <> all (p_sandboxes)
        and (r.lease_until is null or r.lease_until < now())
        and r.updated_at < now() - p_grace_s * interval '1 second'
    returning r.id, r.task_id, r.user_id, r.seq, r.trace_id
$$;

-- Ends runs that have waited p_waited_s seconds for a sandbox, and tasks that say they are active and have no active run
-- (those of the old backend, whose threads are gone). Each gets the code and sentence that are given for its kind. How many.
create function public.end_stuck(
    p_waited_s integer, p_waited_code text, p_waited_error text, p_orphaned_error text
) returns integer
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_ended integer := 0;
    v_orphans integer;
begin
    for v_run in
        select * from public.runs r
        where r.status = 'queued' and r.created_at < now() - p_waited_s * interval '1 second'
        order by r.created_at limit 500 for update skip locked
    loop
        perform public.finish_run(
            p_run_id => v_run.id, p_fence => v_run.fence, p_status => 'failed', p_error_code => p_waited_code,
            p_error => p_waited_error, p_events => jsonb_build_array(jsonb_build_object(
                'kind', 'ended', 'payload', jsonb_build_object(
                    'status', 'failed', 'error_code', p_waited_code, 'text', p_waited_error))));
        v_ended := v_ended + 1;
    end loop;
    update public.tasks t set status = 'failed', error = p_orphaned_error, completed_at = now()
    where t.status in ('pending', 'running') and t.updated_at < now() - p_waited_s * interval '1 second'
        and not exists (select 1 from public.runs r where r.task_id = t.id and r.status in ('queued', 'running'));
    get diagnostics v_orphans = row_count;
    return v_ended + v_orphans;
end $$;

-- Does again what a run was to do that ended as `internal`: its prompt, on what its task has by now. A new run, which takes
-- over the sealed git token; no limit of its user's applies, for it was us who failed. Returns its message, or null when
-- there is nothing to do again: it did not end that way, or something else has been asked of its task since.
create function public.replay_run(p_run_id uuid) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_dead public.runs;
    v_task public.tasks;
    v_run public.runs;
begin
    select t.* into v_task from public.tasks t join public.runs r on r.task_id = t.id where r.id = p_run_id for update of t;
    select * into v_dead from public.runs where id = p_run_id;
    if v_dead.status is distinct from 'failed' or v_dead.error_code is distinct from 'internal'
        or exists (select 1 from public.runs r where r.task_id = v_dead.task_id and r.created_at > v_dead.created_at) then
        return null;
    end if;
    update public.runs set git_credential_id = null where id = v_dead.id;
    update public.tasks set status = 'pending', error = null, completed_at = null where id = v_task.id;
    insert into public.runs (
        task_id, user_id, kind, prompt, agent, model, max_cost_usd, git_credential_id, trace_id, base_commit)
    values (
        v_dead.task_id, v_dead.user_id, case when v_dead.kind = 'follow_up' then 'follow_up' else 'retry' end,
        v_dead.prompt, v_dead.agent, v_dead.model, v_dead.max_cost_usd, v_dead.git_credential_id, v_dead.trace_id,
        case when v_dead.kind = 'follow_up' then v_task.execution_metadata ->> 'base_commit' end)
    returning * into v_run;
    perform public.append_events(v_run.task_id, v_run.id, jsonb_build_array(
        jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'queued'))));
    return jsonb_build_object(
        'run_id', v_run.id, 'task_id', v_run.task_id, 'user_id', v_run.user_id, 'seq', v_run.seq,
        'trace_id', v_run.trace_id);
end $$;

-- Deletes sealed secrets that have expired or whose run has ended, but for those that a replay would need. How many.
create or replace function public.expire_credentials() returns integer
language sql set search_path = '' as $$
    with gone as (
        delete from public.user_credentials c
        where c.expires_at < now()
            or exists (
                select 1 from public.runs r
                where r.git_credential_id = c.id and r.status not in ('queued', 'running')
                    and r.error_code is distinct from 'internal')
        returning 1)
    select count(*)::integer from gone
$$;

revoke all on function
    public.runs_without_sandbox(text[], integer),
    public.end_stuck(integer, text, text, text),
    public.replay_run(uuid)
    from public, anon, authenticated;
grant execute on function
    public.runs_without_sandbox(text[], integer),
    public.end_stuck(integer, text, text, text),
    public.replay_run(uuid)
    to service_role;
