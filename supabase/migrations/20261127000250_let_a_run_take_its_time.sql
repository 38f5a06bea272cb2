-- How long a run may take is its user's choice, up to what the operator allows.

alter table public.run_limits add column max_duration_s integer not null default 86400
    constraint run_limits_max_duration_check check (max_duration_s between 30 and 86400);
comment on column public.run_limits.max_duration_s is
    'the longest that a run may be given; keep it at what the E2B plan lets a sandbox live (3600 Hobby, 86400 Pro)';

alter table public.runs add column max_duration_s integer
    constraint runs_max_duration_check check (max_duration_s between 30 and 86400);
comment on column public.runs.max_duration_s is 'from admission to its deadline, as its user wants it; null: RUN_TIMEOUT_S';

-- Another run of a task may take as long as the one before.
create function public.inherit_max_duration() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.max_duration_s := (
        select r.max_duration_s from public.runs r where r.task_id = new.task_id order by r.created_at desc limit 1);
    return new;
end $$;

create trigger inherit_max_duration before insert on public.runs for each row
    when (new.max_duration_s is null and new.kind <> 'first')
    execute function public.inherit_max_duration();

-- PostgREST must find exactly one function of a name: the one that there was does its part under another.
alter function public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text, numeric)
    rename to store_task;
revoke all on function public.store_task(text, text, text, text, bigint, text, jsonb, text, text, text, numeric)
    from public, anon, authenticated;

-- A task with its first run, its sealed git token and its first event. A repeated idempotency key returns what the first
-- call made. PT400: it may not take so long. PT404: the project is not the caller's. PT409: another request was made under
-- this key. PT429: a limit.
create function public.create_task(
    p_prompt text, p_repo_url text, p_branch text, p_agent text,
    p_project_id bigint default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null, p_max_cost_usd numeric default null, p_max_duration_s integer default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_most integer := (select max_duration_s from public.run_limits);
    v_made jsonb;
begin
    if p_max_duration_s > v_most then
        raise sqlstate 'PT400' using message = 'max_duration_too_long', detail = jsonb_build_object('limit', v_most)::text;
    end if;
    v_made := public.store_task(
        p_prompt, p_repo_url, p_branch, p_agent, p_project_id, p_model, p_credential, p_idempotency_key, p_trace_id,
        p_request_hash, p_max_cost_usd);
    if (v_made ->> 'created')::boolean then
        update public.runs set max_duration_s = p_max_duration_s where id = (v_made ->> 'run_id')::uuid;
    end if;
    return v_made;
end $$;

-- Takes the lease on the step that a message names. `outcome` says what the worker is to do:
--   claimed  do the step; `run` is the row with repo_url, branch and setup_script
--   waiting  not admitted yet; send the message again in `retry_in_s`, and where that is absent not at all: the run sleeps
--   busy     another worker holds the lease; send the message again in `retry_in_s`
--   overdue  an old message, but its successor was never sent: send one for `seq`
--   stale, ended, unknown  nothing
create or replace function public.claim_run(
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
            v_wait := 1 + (v_place - 1) / v_per_second;  -- those before it in the line need this long
            update public.runs set next_check_at = v_now + v_wait * interval '1 second' where id = p_run_id;
            return jsonb_build_object('outcome', 'waiting', 'retry_in_s', v_wait);
        end if;
        update public.runs set
            status = 'running', phase = 'provisioning', started_at = v_now,
            deadline_at = v_now + interval '1 second' * case
                when v_run.max_duration_s is null then p_run_timeout_s
                -- The limit may have been lowered since it was asked for.
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

revoke all on function
    public.inherit_max_duration(),
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text, numeric, integer)
    from public, anon, authenticated;
grant execute on function
    public.create_task(text, text, text, text, bigint, text, jsonb, text, text, text, numeric, integer)
    to authenticated;
