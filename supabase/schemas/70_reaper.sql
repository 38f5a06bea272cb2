-- What the reaper looks for once a minute: lost messages, lost sandboxes, runs and tasks that would wait for ever, secrets
-- that are no longer needed.

-- Runs whose next step is overdue by p_grace_s seconds and that no worker holds: their message was lost. Each is named once
-- per grace period, so that a backlog is not multiplied.
create function public.due_runs(p_grace_s integer, p_limit integer)
returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language sql set search_path = '' as $$
    update public.runs r set next_check_at = now()
    from (
        select id from public.runs
        where status in ('queued', 'running')
            and next_check_at < now() - p_grace_s * interval '1 second'
            and (lease_until is null or lease_until < now())
        order by next_check_at limit p_limit for update skip locked
    ) due
    where r.id = due.id
    returning r.id, r.task_id, r.user_id, r.seq, r.trace_id
$$;

-- The ids of those sandboxes that are still needed, as an array. p_sandboxes: {id: the run that it was made for}.
create function public.needed_sandboxes(p_sandboxes jsonb) returns jsonb
language sql stable set search_path = '' as $$
    select coalesce(jsonb_agg(s.key), '[]'::jsonb)
    from jsonb_each_text(p_sandboxes) as s
    where exists (
            select 1 from public.runs r where r.id = s.value::uuid and r.status in ('queued', 'running'))
        or exists (
            select 1 from public.runs r
            where r.sandbox_id = s.key and (r.status in ('queued', 'running') or r.kept_until > now()))
$$;

-- Running runs whose sandbox is not in p_sandboxes, the list of all that the provider has. Their next step is due now and
-- will find out. Runs that a worker holds, or held within the last p_grace_s seconds, are left out: their sandbox may be newer
-- than the list.
create function public.runs_without_sandbox(p_sandboxes text[], p_grace_s integer)
returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language sql set search_path = '' as $$
    update public.runs r set next_check_at = now()
    where r.status = 'running' and r.sandbox_id is not null and r.sandbox_id <> all (p_sandboxes)
        and (r.lease_until is null or r.lease_until < now())
        and r.updated_at < now() - p_grace_s * interval '1 second'
    returning r.id, r.task_id, r.user_id, r.seq, r.trace_id
$$;

-- Ends runs that have waited p_waited_s seconds for a sandbox, and tasks that are marked active and have no active run
-- (tasks of the old backend, whose threads are gone). The arguments give the code and the sentence for each of the two kinds.
-- Returns the number of both.
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

-- Deletes sealed secrets that have expired or whose run has ended, except those that a replay would need. Returns the number.
create function public.expire_credentials() returns integer
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
    public.due_runs, public.needed_sandboxes, public.runs_without_sandbox, public.end_stuck, public.expire_credentials
    from public, anon, authenticated;
grant execute on function
    public.due_runs, public.needed_sandboxes, public.runs_without_sandbox, public.end_stuck, public.expire_credentials
    to service_role;
