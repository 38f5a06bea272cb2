-- How a run ends, and what is recorded then and afterwards.

-- Asks the executor to stop the active run of a task. Returns the run to send a message for, and whether a step is in
-- progress, which does not know of the request yet. PT404: no such task. PT409: it has ended.
create function public.request_cancel(p_task_id bigint) returns jsonb
language plpgsql security definer set search_path = '' as $$
declare
    v_run public.runs;
begin
    if not exists (select 1 from public.tasks t where t.id = p_task_id and t.user_id = auth.uid()) then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
    update public.runs set cancel_requested_at = coalesce(cancel_requested_at, now())
    where task_id = p_task_id and user_id = auth.uid() and status in ('queued', 'running')
    returning * into v_run;
    if not found then
        raise sqlstate 'PT409' using message = 'task_ended';
    end if;
    return jsonb_build_object(
        'task_id', p_task_id, 'run_id', v_run.id, 'seq', v_run.seq,
        'at_work', coalesce(v_run.lease_until > now(), false));
end $$;

-- Ends a run and its task: status, result, files, chat message of the assistant, last events. False when the fence has moved
-- on and nothing was written. p_result and p_files: see store_result; without p_result the last checkpoint stays. Deletes the
-- run's sealed git token, except after an `internal` error: such a run may be replayed until the token expires.
create function public.finish_run(
    p_run_id uuid, p_fence integer, p_status public.run_status, p_error_code text default null, p_error text default null,
    p_result jsonb default '{}', p_files jsonb default '[]', p_message text default '', p_events jsonb default '[]'
) returns boolean
language plpgsql set search_path = '' as $$
declare
    v_run public.runs;
begin
    if p_status not in ('completed', 'failed', 'cancelled') then
        raise sqlstate 'PT400' using message = 'not_a_final_status';
    end if;
    select * into v_run from public.runs where id = p_run_id for update;
    if not found or v_run.fence <> p_fence or v_run.status not in ('queued', 'running') then
        return false;
    end if;
    update public.runs set
        status = p_status, phase = 'done', error_code = p_error_code, error = p_error, finished_at = now(),
        seq = seq + 1, lease_until = null
    where id = p_run_id;
    update public.tasks set
        status = p_status::text::public.task_status, error = p_error, completed_at = now(),
        chat_messages = case when coalesce(p_message, '') = '' then chat_messages
            else chat_messages || jsonb_build_array(public.chat_message('assistant', p_message)) end
    where id = v_run.task_id;
    if coalesce(p_result, '{}'::jsonb) <> '{}'::jsonb then
        perform public.store_result(v_run, p_result, p_files);
    end if;
    delete from public.user_credentials
    where id = v_run.git_credential_id and p_error_code is distinct from 'internal';
    perform public.append_events(v_run.task_id, p_run_id, p_events);
    return true;
end $$;

-- finish_run, and keeps the run's sandbox for p_keep_s seconds.
create function public.finish_run_keeping_sandbox(
    p_keep_s integer, p_run_id uuid, p_fence integer, p_status public.run_status,
    p_error_code text default null, p_error text default null, p_result jsonb default '{}',
    p_files jsonb default '[]', p_message text default '', p_events jsonb default '[]'
) returns boolean
language plpgsql set search_path = '' as $$
begin
    if not public.finish_run(
        p_run_id => p_run_id, p_fence => p_fence, p_status => p_status, p_error_code => p_error_code,
        p_error => p_error, p_result => p_result, p_files => p_files, p_message => p_message, p_events => p_events
    ) then
        return false;
    end if;
    update public.runs set kept_until = now() + p_keep_s * interval '1 second' where id = p_run_id;
    return true;
end $$;

-- Once a run is completed, no reader asks for the contents of the runs before it.
create function public.drop_older_contents() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
    delete from public.task_contents c using public.runs r
    where c.run_id = r.id and r.task_id = new.task_id and r.id <> new.id;
    return null;
end $$;

create trigger drop_older_contents after update of status on public.runs for each row
    when (old.status <> 'completed' and new.status = 'completed')
    execute function public.drop_older_contents();

-- A run as a row of `spending`. A run that never reached its agent has spent nothing.
create function public.spending_of(p_run public.runs) returns public.spending
language sql stable set search_path = '' as $$
    select p_run.id, p_run.user_id, p_run.task_id,
        (select t.project_id from public.tasks t where t.id = p_run.task_id),
        now(), p_run.agent, coalesce(p_run.usage ->> 'model', p_run.model),
        case when p_run.usage ? 'cost_usd' then (p_run.usage ->> 'cost_usd')::numeric else 0 end,
        coalesce((p_run.usage ->> 'input_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'cached_input_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'cache_write_tokens')::bigint, 0),
        coalesce((p_run.usage ->> 'output_tokens')::bigint, 0)
$$;

-- Triggers, so that no way to end a run is forgotten: a run may also be deleted with its project while it is active.
create function public.record_spending() returns trigger
language plpgsql security definer set search_path = '' as $$
declare
    v_run public.runs := case when tg_op = 'DELETE' then old else new end;
begin
    -- When the run is deleted together with its user, no one remains who could ask.
    if exists (select 1 from public.users u where u.id = v_run.user_id) then
        insert into public.spending select (public.spending_of(v_run)).* on conflict (run_id) do nothing;
    end if;
    return v_run;
end $$;

create trigger record_spending_of_ended_run after update of status on public.runs for each row
    when (old.status in ('queued', 'running') and new.status not in ('queued', 'running'))
    execute function public.record_spending();
create trigger record_spending_of_deleted_run before delete on public.runs for each row
    when (old.status in ('queued', 'running'))
    execute function public.record_spending();

-- Records the pull request that the API made of a task. PT404: not a task of the caller. PT400: not a pull request.
create function public.record_pull_request(p_task_id bigint, p_branch text, p_number integer, p_url text) returns void
language plpgsql security definer set search_path = '' as $$
begin
    -- The dashboard makes a link of it, so only a web address may be stored.
    if coalesce(p_number, 0) < 1 or coalesce(p_branch, '') = '' or length(p_branch) > 255 or length(p_url) > 500
        or coalesce(p_url, '') !~ '^https?://[^[:space:]"<>]+/pull/[0-9]+$' then
        raise sqlstate 'PT400' using message = 'bad_pull_request';
    end if;
    update public.tasks set pr_branch = p_branch, pr_number = p_number, pr_url = p_url
    where id = p_task_id and user_id = auth.uid();
    if not found then
        raise sqlstate 'PT404' using message = 'task_not_found';
    end if;
end $$;

revoke all on function
    public.request_cancel, public.finish_run, public.finish_run_keeping_sandbox, public.drop_older_contents,
    public.spending_of, public.record_spending, public.record_pull_request
    from public, anon, authenticated;
grant execute on function public.request_cancel, public.spending_of, public.record_pull_request to authenticated;
grant execute on function public.finish_run, public.finish_run_keeping_sandbox, public.spending_of to service_role;
