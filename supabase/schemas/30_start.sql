-- How a run begins: with a new task, as another run of a task, or as a replay of a run that failed by our fault.

-- Refuses a start beyond a limit of the user, and counts an accepted one. Details of the refusal, as JSON: limit, current,
-- retry_after_s.
create function public.admit_start(p_user uuid) returns void
language plpgsql security definer set search_path = '' as $$
declare
    v_limits public.run_limits;
    v_active integer;
    v_started integer;
    v_free_at timestamptz;
begin
    select * into strict v_limits from public.run_limits;
    select count(*) into v_active from public.runs r where r.user_id = p_user and r.status in ('queued', 'running');
    if v_active >= v_limits.active_per_user then
        raise sqlstate 'PT429' using message = 'too_many_active_runs', detail = jsonb_build_object(
            'limit', v_limits.active_per_user, 'current', v_active, 'retry_after_s', 30)::text;
    end if;
    delete from public.run_starts s where s.user_id = p_user and s.at <= now() - interval '1 hour';
    select count(*) into v_started from public.run_starts s where s.user_id = p_user;
    if v_started >= v_limits.started_per_hour then
        -- The next one is free when the oldest of the last `started_per_hour` starts is an hour old.
        select s.at + interval '1 hour' into v_free_at from public.run_starts s where s.user_id = p_user
        order by s.at desc offset v_limits.started_per_hour - 1 limit 1;
        raise sqlstate 'PT429' using message = 'too_many_starts', detail = jsonb_build_object(
            'limit', v_limits.started_per_hour, 'current', v_started,
            'retry_after_s', greatest(1, ceil(extract(epoch from v_free_at - now()))::integer))::text;
    end if;
    insert into public.run_starts (user_id) values (p_user);
end $$;

-- A queued run of the caller, with its sealed git token and its first event.
create function public.insert_run(
    p_task_id bigint, p_kind text, p_prompt text, p_agent text, p_model text,
    p_credential jsonb, p_idempotency_key text, p_trace_id text
) returns public.runs
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_run public.runs;
begin
    -- Serialises the starts of one user: two concurrent ones cannot both pass the limits.
    perform pg_advisory_xact_lock(hashtextextended('runs of ' || v_user, 0));
    perform public.admit_start(v_user);
    if p_credential is not null then
        insert into public.user_credentials (id, user_id, kind, ciphertext, key_id, alg, hint, expires_at)
        values (
            (p_credential ->> 'id')::uuid, v_user, p_credential ->> 'kind', p_credential ->> 'ciphertext',
            p_credential ->> 'key_id', p_credential ->> 'alg', p_credential ->> 'hint', now() + interval '2 days');
    end if;
    insert into public.runs (
        task_id, user_id, kind, prompt, agent, model, git_credential_id, idempotency_key, trace_id)
    values (
        p_task_id, v_user, p_kind, p_prompt, p_agent, p_model,
        (p_credential ->> 'id')::uuid, p_idempotency_key, p_trace_id)
    returning * into v_run;
    perform public.append_events(p_task_id, v_run.id, jsonb_build_array(
        jsonb_build_object('kind', 'phase', 'payload', jsonb_build_object('phase', 'queued'))));
    return v_run;
end $$;

-- A task with its first run. A repeated idempotency key returns what the first call made. PT400: max_duration_s is above the
-- limit. PT404: the project is not the caller's. PT409: the key was used for another request. PT429: a limit.
create function public.create_task(
    p_prompt text, p_repo_url text, p_branch text, p_agent text,
    p_project_id bigint default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null, p_max_cost_usd numeric default null, p_max_duration_s integer default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_max_duration_s integer := (select max_duration_s from public.run_limits);
    v_task public.tasks;
    v_run public.runs;
begin
    if p_max_duration_s > v_max_duration_s then
        raise sqlstate 'PT400' using
            message = 'max_duration_too_long', detail = jsonb_build_object('limit', v_max_duration_s)::text;
    end if;
    if v_user is null then
        raise sqlstate 'PT401' using message = 'not_signed_in';
    end if;
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_project_id is not null
        and not exists (select 1 from public.projects p where p.id = p_project_id and p.user_id = v_user) then
        raise sqlstate 'PT404' using message = 'project_not_found';
    end if;
    insert into public.tasks (user_id, project_id, repo_url, target_branch, agent, chat_messages)
    values (
        v_user, p_project_id, p_repo_url, p_branch, p_agent,
        jsonb_build_array(public.chat_message('user', p_prompt)))
    returning * into v_task;
    v_run := public.insert_run(
        v_task.id, 'first', p_prompt, p_agent, p_model, p_credential, p_idempotency_key, p_trace_id);
    update public.runs set
        request_hash = p_request_hash, max_cost_usd = p_max_cost_usd, max_duration_s = p_max_duration_s
    where id = v_run.id;
    return jsonb_build_object('task_id', v_task.id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

-- Another run of a task of the caller that has ended: a follow-up with a new prompt, or a retry of the last one. It takes
-- over the sandbox that was kept, if there is one; a follow-up also takes over the agent's session there, and the commit from
-- which all changes are counted. A repeated idempotency key returns what the first call made. PT404: no such task. PT409: it
-- has a run that has not ended, its chat is full, or the key was used for another request. PT429: a limit.
create function public.create_run(
    p_task_id bigint, p_kind text, p_prompt text default null, p_model text default null,
    p_credential jsonb default null, p_idempotency_key text default null, p_trace_id text default null,
    p_request_hash text default null
) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_user uuid := auth.uid();
    v_task public.tasks;
    v_last public.runs;
    v_run public.runs;
    v_goes_on boolean := p_kind = 'follow_up';
begin
    if p_idempotency_key is not null then
        perform pg_advisory_xact_lock(hashtextextended(v_user || ' ' || p_idempotency_key, 1));
    end if;
    select * into v_task from public.tasks t where t.id = p_task_id and t.user_id = v_user for update;
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    if p_idempotency_key is not null then
        select * into v_run from public.runs r where r.user_id = v_user and r.idempotency_key = p_idempotency_key;
        if found then
            if v_run.request_hash is distinct from coalesce(p_request_hash, v_run.request_hash) then
                raise sqlstate 'PT409' using message = 'idempotency_key_reused';
            end if;
            return jsonb_build_object('task_id', v_run.task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', false);
        end if;
    end if;
    if p_kind not in ('follow_up', 'retry') or (v_goes_on and coalesce(p_prompt, '') = '') then
        raise sqlstate 'PT400' using message = 'bad_run_kind';
    end if;
    if exists (select 1 from public.runs r where r.task_id = p_task_id and r.status in ('queued', 'running')) then
        raise sqlstate 'PT409' using message = 'run_active';
    end if;
    if v_goes_on and octet_length(coalesce(v_task.chat_messages, '[]'::jsonb)::text) >= 2000000 then
        raise sqlstate 'PT409' using message = 'chat_full';
    end if;
    select * into v_last from public.runs r where r.task_id = p_task_id order by r.created_at desc limit 1;
    if not found and not v_goes_on then
        raise sqlstate 'PT409' using message = 'nothing_to_retry';
    end if;
    update public.tasks set
        status = 'pending', error = null, completed_at = null,
        chat_messages = case when v_goes_on
            then coalesce(chat_messages, '[]'::jsonb) || jsonb_build_array(public.chat_message('user', p_prompt))
            else chat_messages end
    where id = p_task_id;
    v_run := public.insert_run(
        p_task_id, p_kind, case when v_goes_on then p_prompt else v_last.prompt end, v_task.agent,
        coalesce(p_model, v_last.model), p_credential, p_idempotency_key, p_trace_id);
    update public.runs set
        request_hash = p_request_hash,
        base_commit = case when v_goes_on then v_task.execution_metadata ->> 'base_commit' end
    where id = v_run.id;
    if v_last.kept_until > now() then
        update public.runs set
            sandbox_id = v_last.sandbox_id,
            agent_session_id = case when v_goes_on then v_last.agent_session_id end,
            reader_state = case when v_goes_on then v_last.reader_state else '{}'::jsonb end
        where id = v_run.id;
        update public.runs set kept_until = null where id = v_last.id;
    end if;
    return jsonb_build_object('task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq, 'created', true);
end $$;

-- Another run of a task has the limits of the one before.
create function public.inherit_max_cost() returns trigger
language plpgsql set search_path = '' as $$
begin
    new.max_cost_usd := (
        select r.max_cost_usd from public.runs r where r.task_id = new.task_id order by r.created_at desc limit 1);
    return new;
end $$;

create trigger inherit_max_cost before insert on public.runs for each row
    when (new.max_cost_usd is null and new.kind <> 'first')
    execute function public.inherit_max_cost();

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

-- Repeats a run that ended as `internal`: a new run with the same prompt on the present state of the task, with the same
-- sealed git token. No limit of the user applies, because the fault was ours. Returns the message for the new run, or null
-- when there is nothing to repeat: the run did not end that way, or the task has a newer run.
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

revoke all on function
    public.admit_start, public.insert_run, public.create_task, public.create_run, public.inherit_max_cost,
    public.inherit_max_duration, public.replay_run
    from public, anon, authenticated;
grant execute on function public.create_task, public.create_run to authenticated;
grant execute on function public.replay_run to service_role;
