-- Who works on a run, and when. A worker claims a step: it gets a lease (who works now) and a fence (who worked last).
--
-- Runs that have asked for a sandbox stand in a line. Users with the fewest running sandboxes come first, and among those
-- the run that has waited longest. A run that none of the free sandboxes is for goes to sleep, until wake_runs names it:
-- that is called when a run has ended, and once a minute.

-- What a worker needs to know about a run that it holds: the row, and where the code is.
create function public.claimed_run(p_run public.runs) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object('outcome', 'claimed', 'run', to_jsonb(p_run) || jsonb_build_object(
        'repo_url', t.repo_url, 'branch', t.target_branch,
        'setup_script', p.settings ->> 'setup_script'))
    from public.tasks t left join public.projects p on p.id = t.project_id
    where t.id = p_run.task_id
$$;

-- The front of the line: as many runs as there are free sandboxes, each with its place, from 1.
--
-- A user's second waiting run would get the user's (running + 2)nd sandbox. Ordered by that number, the line is what taking
-- turns would give. No run has a place beyond running_per_user.
create function public.next_to_start() returns table (run_id uuid, place integer)
language sql stable set search_path = '' as $$
    with busy as (
        select r.user_id, count(*) as sandboxes from public.runs r where r.status = 'running' group by r.user_id
    ), line as (
        select q.id, q.created_at,
            coalesce(b.sandboxes, 0) + row_number() over (partition by q.user_id order by q.created_at, q.id) as nth
        from public.runs q left join busy b on b.user_id = q.user_id
        where q.status = 'queued' and q.asked_at is not null and q.cancel_requested_at is null
    )
    select line.id, (row_number() over (order by nth, created_at, line.id))::integer
    from line, public.run_limits limits
    where nth <= limits.running_per_user
    order by nth, created_at, line.id
    limit (
        select greatest(0, l.running_in_all - (select count(*) from public.runs r where r.status = 'running'))
        from public.run_limits l)
$$;

-- Takes the lease on the step that a message names. `outcome` says what the worker does next:
--   claimed  do the step; `run` is the row with repo_url, branch and setup_script
--   waiting  not admitted yet; send the message again in `retry_in_s`. Without `retry_in_s`, send none: the run sleeps
--   busy     another worker holds the lease; send the message again in `retry_in_s`
--   overdue  an old message whose successor was never sent: send one for `seq`
--   stale, ended, unknown  nothing
create function public.claim_run(
    p_run_id uuid, p_seq integer, p_lease_s integer, p_run_timeout_s integer
) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
    v_per_second integer;
    v_place integer;
    v_wait integer;
    v_now timestamptz;
begin
    select * into v_run from public.runs where id = p_run_id for update;
    if not found then
        return jsonb_build_object('outcome', 'unknown');
    elsif v_run.status not in ('queued', 'running') then
        return jsonb_build_object('outcome', 'ended');
    elsif v_run.lease_until > now() and v_run.seq = p_seq then
        return jsonb_build_object(
            'outcome', 'busy', 'retry_in_s', ceil(extract(epoch from v_run.lease_until - now()))::integer + 1);
    elsif v_run.seq <> p_seq then
        if v_run.next_check_at <= now() and coalesce(v_run.lease_until, now()) <= now() then
            return jsonb_build_object('outcome', 'overdue', 'seq', v_run.seq);
        end if;
        return jsonb_build_object('outcome', 'stale');
    end if;

    if v_run.status = 'queued' and v_run.cancel_requested_at is null then
        perform pg_advisory_xact_lock(hashtextextended('admission', 2));
        v_now := clock_timestamp();  -- now() is from before the lock
        update public.runs set asked_at = coalesce(asked_at, v_now) where id = p_run_id;
        select n.place into v_place from public.next_to_start() n where n.run_id = p_run_id;
        if v_place is null then
            update public.runs set next_check_at = 'infinity' where id = p_run_id;
            return jsonb_build_object('outcome', 'waiting');
        end if;
        select started_per_second into strict v_per_second from public.run_limits;
        if (select count(*) from public.runs where started_at > v_now - interval '1 second') >= v_per_second then
            v_wait := 1 + (v_place - 1) / v_per_second;  -- the runs before it in the line need this long
            update public.runs set next_check_at = v_now + v_wait * interval '1 second' where id = p_run_id;
            return jsonb_build_object('outcome', 'waiting', 'retry_in_s', v_wait);
        end if;
        update public.runs set
            status = 'running', phase = 'provisioning', started_at = v_now,
            deadline_at = v_now + interval '1 second' * case
                when v_run.max_duration_s is null then p_run_timeout_s
                -- The limit may have been lowered since the task was started.
                else least(v_run.max_duration_s, greatest(
                    p_run_timeout_s, (select max_duration_s from public.run_limits))) end
        where id = p_run_id;
        update public.tasks set status = 'running', started_at = v_now where id = v_run.task_id;
        perform public.append_events(v_run.task_id, p_run_id, jsonb_build_array(
            jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'provisioning'))));
    end if;

    update public.runs set
        fence = fence + 1, attempt = attempt + 1, lease_until = now() + p_lease_s * interval '1 second'
    where id = p_run_id returning * into v_run;
    return public.claimed_run(v_run);
end $$;

-- Takes a run from its present worker, whatever its step: for dead letters. `outcome`: claimed, ended or unknown.
create function public.seize_run(p_run_id uuid, p_lease_s integer) returns jsonb
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    update public.runs set fence = fence + 1, lease_until = now() + p_lease_s * interval '1 second'
    where id = p_run_id and status in ('queued', 'running') returning * into v_run;
    if found then
        return public.claimed_run(v_run);
    end if;
    return jsonb_build_object(
        'outcome', case when exists (select 1 from public.runs where id = p_run_id) then 'ended' else 'unknown' end);
end $$;

-- Wakes the sleeping runs that free sandboxes are for, and those that were cancelled. Each is named once and is due from
-- then on, so that due_runs names it again if its message is lost.
create function public.wake_runs() returns table (run_id uuid, task_id bigint, user_id uuid, seq integer, trace_id text)
language plpgsql set search_path = '' as $$
begin
    -- A claim that is about to put its run to sleep has finished before we look, or looks after us at the same free sandbox.
    perform pg_advisory_xact_lock(hashtextextended('admission', 2));
    return query
        update public.runs r set next_check_at = now()
        from (
            select q.id from public.runs q
            where q.status = 'queued' and q.next_check_at = 'infinity'
                and (q.cancel_requested_at is not null or q.id in (select n.run_id from public.next_to_start() n))
            for update skip locked  -- a claim holds its run's row while it waits for our lock
        ) woken
        where r.id = woken.id
        returning r.id, r.task_id, r.user_id, r.seq, r.trace_id;
end $$;

-- What the owner of a run wants in the environment and the network of its programs, as unchecked text, because it may not
-- be readable. `preferences` is the user's; `project_env` and `project_network` belong to the task's project. A value above
-- the allowed length is cut, and readers refuse it.
create function public.run_environment(p_run_id uuid) returns jsonb
language sql stable set search_path = '' as $$
    select jsonb_build_object(
        'preferences', u.preferences::text,
        'project_env', left((p.settings -> 'env')::text, 131072),
        'project_network', left((p.settings -> 'network')::text, 32768))
    from public.runs r
        join public.users u on u.id = r.user_id
        join public.tasks t on t.id = r.task_id
        left join public.projects p on p.id = t.project_id and p.user_id = r.user_id
    where r.id = p_run_id
$$;

revoke all on function
    public.claimed_run, public.next_to_start, public.claim_run, public.seize_run, public.wake_runs, public.run_environment
    from public, anon, authenticated;
grant execute on function
    public.claimed_run, public.next_to_start, public.claim_run, public.seize_run, public.wake_runs, public.run_environment
    to service_role;
